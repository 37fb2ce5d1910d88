"""From a file's bytes to a `ParsedDocument`: which format it is, and what all formats have in common.

Each format's own reader is a module beside this one; adding a format is adding a reader and its extensions here.
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
from rag_pipeline.errors import DocumentError, one_line
from rag_pipeline.language.detection import detect_language

PARSER_VERSION = "1"
"""Raised whenever `parse` gives something else for the same bytes: what was parsed before is then parsed anew."""

HEAD_BYTES = 64 * 1024
"""The first bytes that `created_at` wants: room for any front matter and for the head of nearly every page."""

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
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_BY_SCRIPT = frozenset({"ja", "zh", "ko"})


def parse(data: bytes, name: str, *, language: str | None = None) -> ParsedDocument:
    """The document that a file's bytes hold.

    `name` is the file's name: its extension says the format unless the content says otherwise, and its stem is
    the title of last resort. `language` is what the source knows of its documents' language; a document's own
    front matter goes before it.

    Raises `DocumentError`, one line that begins with the name: empty, not text, no encoding fits, a format that
    cannot be read, broken, encrypted, without text.
    """
    shown = clean_field(name, 200) or "a file without a name"
    try:
        file_format = _format_of(data, name)
        if not data.strip():
            raise DocumentError("it is empty")
        extracted = _READERS[file_format](data)
        content = clean_text(extracted.markdown).strip("\n")
        if not content.strip():
            raise DocumentError("it holds no text")
    except DocumentError as error:
        raise DocumentError(f"{shown}: {one_line(error)}") from None
    warnings = [warning for text in extracted.warnings if (warning := clean_field(text, 500))]
    if file_format != _FORMATS.get(_extension(name), file_format):
        warnings.append(f"it was read as {file_format}, which it is whatever its name says")
    spoken, doubt = _language(extracted, content, language)
    if doubt:
        warnings.append(doubt)
    return ParsedDocument(
        title=clean_field(extracted.title, MAX_TITLE)
        or clean_field(first_heading(content), MAX_TITLE)
        or clean_field(PurePosixPath(name).stem, MAX_TITLE)
        or shown,
        markdown=content,
        created_at=created_at(data[:HEAD_BYTES], name) if file_format == "HTML" else extracted.created_at,
        author=clean_field(extracted.author, MAX_AUTHOR),
        language=spoken,
        category=clean_field(extracted.category, MAX_CATEGORY),
        tags=clean_tags(extracted.tags),
        warnings=tuple(warnings),
    )


def created_at(head: bytes, name: str) -> datetime | None:
    """The date that a document gives itself, aware and in UTC, read from its first `HEAD_BYTES` alone.

    None where there is none or these bytes do not tell; where `needs_whole_file`, `parse` tells it. Never raises.
    """
    if len(head) >= HEAD_BYTES:
        head = head[: head.rfind(b"\n") + 1] or head  # not in the middle of a character
    try:
        file_format = _format_of(head, name)
        if file_format == "HTML":
            return html.published_at(_decode_html(head).text)
        if file_format == "Markdown":
            return markdown.read_markdown(clean_text(decode(head).text)).created_at
    except DocumentError:
        pass  # parse() will say what is wrong with it
    return None


def needs_whole_file(name: str) -> bool:
    """Whether a document's date can only be told from all of its bytes (PDF and DOCX keep it at their end)."""
    return _FORMATS.get(_extension(name)) in _WHOLE_FILE


def _format_of(data: bytes, name: str) -> str:
    """The format, by what the content shows before what the extension says."""
    if data[:64].lstrip().startswith(b"%PDF-"):
        return "PDF"
    if _HTML_START.match(data, 0, 2048):
        return "HTML"
    if data.startswith(b"PK\x03\x04") and docx.is_docx(data):
        return "DOCX"
    file_format = _FORMATS.get(_extension(name))
    if file_format is None:
        extension = clean_field(_extension(name), 40)
        what = (
            f"{extension} is not a format that can be read"
            if extension
            else "its name lacks the extension of a format"
        )
        raise DocumentError(f"{what}: .md .txt .html .pdf .docx")
    return file_format


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _language(extracted: ExtractedDocument, content: str, given: str | None) -> tuple[str | None, str | None]:
    """(language, a warning where the document's claim was not believed)."""
    claimed = language_code(extracted.language)
    if claimed and extracted.language_is_certain:
        return claimed, None
    if language_code(given):
        return language_code(given), None
    detected = detect_language(content)
    # Templates and word processors write `en` over Japanese text; scripts do not lie.
    if claimed and detected and claimed != detected and _BY_SCRIPT & {claimed, detected}:
        return detected, f"it calls itself {claimed} but is written in {detected}"
    return claimed or detected, None


def _read_markdown(data: bytes) -> ExtractedDocument:
    return _with_warning(decode(data), lambda text: markdown.read_markdown(clean_text(text)))


def _read_text(data: bytes) -> ExtractedDocument:
    return _with_warning(decode(data), ExtractedDocument)


def _read_html(data: bytes) -> ExtractedDocument:
    return _with_warning(_decode_html(data), html.read_html)


def _decode_html(data: bytes) -> Decoded:
    return decode(data, declared_encoding(data))


def _with_warning(decoded: Decoded, read: Callable[[str], ExtractedDocument]) -> ExtractedDocument:
    extracted = read(decoded.text)
    if decoded.warning is None:
        return extracted
    return replace(extracted, warnings=(*extracted.warnings, decoded.warning))


_READERS: dict[str, Callable[[bytes], ExtractedDocument]] = {
    "Markdown": _read_markdown,
    "text": _read_text,
    "HTML": _read_html,
    "PDF": pdf.read_pdf,
    "DOCX": docx.read_docx,
}
