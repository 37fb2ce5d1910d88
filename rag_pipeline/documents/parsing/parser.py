"""From a file's bytes to a `ParsedDocument`: detection of the format, and what all formats have in common.

The reader of each format is a module beside this one. To add a format, see the package's docstring.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import PurePosixPath

from rag_pipeline.documents.cleaning import (
    MAX_AUTHOR,
    MAX_CATEGORY,
    MAX_TITLE,
    clean_field,
    clean_tags,
    clean_text,
    language_code,
)
from rag_pipeline.documents.outline import first_heading
from rag_pipeline.documents.parsing import docx, html, markdown, pdf
from rag_pipeline.documents.parsing.encoding import Decoded, declared_encoding, decode
from rag_pipeline.documents.parsing.extracted_document import ExtractedDocument
from rag_pipeline.documents.parsing.parsed_document import ParsedDocument
from rag_pipeline.documents.parsing.titles import meaningful_title
from rag_pipeline.errors import DocumentError, one_line
from rag_pipeline.language.detection import detect_language
from rag_pipeline.language.likely import likely_language

PARSER_VERSION = "3"
"""Raise it whenever `parse` returns something else for the same bytes: all documents are then parsed again."""

HEAD_BYTES = 64 * 1024
"""The first bytes that `created_at` needs: enough for any front matter and the head of nearly every page."""

_FORMATS = {
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".txt": "text",
    ".text": "text",
    ".html": "HTML",
    ".htm": "HTML",
    ".xhtml": "HTML",
    ".pdf": "PDF",
    ".docx": "DOCX",
}
SUPPORTED_EXTENSIONS: frozenset[str] = frozenset(_FORMATS)
"""Lower-case, with the dot."""

_WHOLE_FILE = frozenset({"PDF", "DOCX"})
_QUICK = frozenset({"Markdown", "text"})
_BY_HAND = frozenset({"Markdown", "text"})
_QUICK_BYTES = 64 * 1024
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_MAX_DATE = 100
_BY_SCRIPT = frozenset({"ja", "zh", "ko"})


def parse(data: bytes, name: str, *, language: str | None = None) -> ParsedDocument:
    """Parse the bytes of a file.

    `name` is the file's name: its extension decides the format unless the content shows another one, and its stem
    is the title of last resort. `language` is the language that the source declares for its documents; a
    document's front matter takes precedence.

    Raises `DocumentError`, one line that begins with the name, if the file is empty, broken, encrypted, without
    text, in an unsupported format, or in no known encoding.
    """
    shown = shown_name(name)
    try:
        file_format = _format_of(data, name)
        if not data.strip():
            raise DocumentError("the file is empty")
        extracted = _READERS[file_format](data, language_code(language))
        content = clean_text(extracted.markdown).strip("\n")
        if not content.strip():
            raise DocumentError("the file contains no text")
    except DocumentError as error:
        raise DocumentError(f"{shown}: {one_line(error)}") from None
    # In front matter a person has written it.
    stated = extracted.title if file_format in _BY_HAND else meaningful_title(extracted.title)
    title = clean_field(stated, MAX_TITLE)
    # Of a long text the outline is made even if there is a title: one whose outline takes too much time or memory is
    # rejected here, where that has a limit, and not when it is chunked.
    heading = None if title and len(content) <= _QUICK_BYTES else first_heading(content)
    warnings = [warning for text in extracted.warnings if (warning := clean_field(text, 500))]
    if file_format != _FORMATS.get(_extension(name), file_format):
        warnings.append(f"the extension does not match the content: the file was read as {file_format}")
    chosen, doubt = _language(extracted, content, language)
    if doubt:
        warnings.append(doubt)
    return ParsedDocument(
        title=title
        or clean_field(heading, MAX_TITLE)
        or clean_field(PurePosixPath(name).stem, MAX_TITLE)
        or shown,
        markdown=content,
        author=clean_field(extracted.author, MAX_AUTHOR),
        language=chosen,
        category=clean_field(extracted.category, MAX_CATEGORY),
        tags=clean_tags(extracted.tags),
        stated_date=clean_field(extracted.stated_date, _MAX_DATE),
        warnings=tuple(warnings),
    )


def created_at(data: bytes, name: str) -> datetime | None:
    """Return the date that a document states, aware and in UTC; None if it states none. Never raises.

    Takes the first `HEAD_BYTES`, and all bytes of a file that `needs_whole_file`.
    """
    try:
        file_format = _format_of(data, name)
        if file_format in _WHOLE_FILE:
            # A PDF called .txt is not read for its date: only its first bytes are here.
            return _DATE_READERS[file_format](data) if needs_whole_file(name) else None
        head = data[:HEAD_BYTES]
        if len(head) == HEAD_BYTES:
            head = head[: head.rfind(b"\n") + 1] or head  # do not cut inside a character
        return _DATE_READERS[file_format](head) if file_format in _DATE_READERS else None
    except DocumentError:
        return None  # parse() reports what is wrong


def needs_whole_file(name: str) -> bool:
    """Return whether finding the date of a document needs all of its bytes (PDF and DOCX store it at the end)."""
    return _FORMATS.get(_extension(name)) in _WHOLE_FILE


def is_quick(data: bytes, name: str) -> bool:
    """Whether `parse` takes seconds at worst: a short text. A page, a PDF or a Word document can take for ever."""
    return len(data) <= _QUICK_BYTES and _known_format(data, name) in _QUICK


def shown_name(name: str) -> str:
    """Return a file's name as errors show it."""
    return clean_field(name, 200) or "a file without a name"


def _format_of(data: bytes, name: str) -> str:
    """Return the format: what the content shows, else what the extension says."""
    file_format = _known_format(data, name)
    if file_format is None:
        extension = clean_field(_extension(name), 40)
        what = f"{extension} is not a supported format" if extension else "the file name has no extension"
        raise DocumentError(f"{what}: use .md .txt .html .pdf .docx")
    return file_format


def _known_format(data: bytes, name: str) -> str | None:
    if data[:64].lstrip().startswith(b"%PDF-"):
        return "PDF"
    if _HTML_START.match(data, 0, 2048):
        return "HTML"
    if data.startswith(b"PK\x03\x04") and docx.is_docx(data):
        return "DOCX"
    return _FORMATS.get(_extension(name))


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _language(extracted: ExtractedDocument, content: str, given: str | None) -> tuple[str | None, str | None]:
    """Return the language, and a warning if the document states another one."""
    claimed = language_code(extracted.language)
    if claimed and extracted.language_is_certain:
        return claimed, None
    if language_code(given):
        return language_code(given), None
    if not claimed:
        return likely_language(content), None
    detected = detect_language(content)
    # Templates and word processors label Japanese text `en`; its script is the better evidence.
    if detected and claimed != detected and _BY_SCRIPT & {claimed, detected}:
        return detected, f"the stated language is {claimed}, but the text is in {detected}: {detected} is used"
    return claimed, None


def _read_markdown(data: bytes, language: str | None) -> ExtractedDocument:
    return _with_warning(decode(data, language=language), lambda text: markdown.read_markdown(clean_text(text)))


def _read_text(data: bytes, language: str | None) -> ExtractedDocument:
    return _with_warning(decode(data, language=language), ExtractedDocument)


def _read_html(data: bytes, language: str | None) -> ExtractedDocument:
    return _with_warning(_decode_html(data, language), html.read_html)


def _decode_html(data: bytes, language: str | None = None) -> Decoded:
    return decode(data, declared_encoding(data), language)


def _with_warning(decoded: Decoded, read: Callable[[str], ExtractedDocument]) -> ExtractedDocument:
    extracted = read(decoded.text)
    if decoded.warning is None:
        return extracted
    return replace(extracted, warnings=(*extracted.warnings, decoded.warning))


_READERS: dict[str, Callable[[bytes, str | None], ExtractedDocument]] = {
    "Markdown": _read_markdown,
    "text": _read_text,
    "HTML": _read_html,
    "PDF": lambda data, _: pdf.read_pdf(data),
    "DOCX": lambda data, _: docx.read_docx(data),
}
_DATE_READERS: dict[str, Callable[[bytes], datetime | None]] = {
    "Markdown": lambda head: markdown.created_at(clean_text(decode(head).text)),
    "HTML": lambda head: html.published_at(_decode_html(head).text),
    "PDF": pdf.created_at,
    "DOCX": docx.created_at,
}
