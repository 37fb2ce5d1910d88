"""Reader for PDF: the text, page by page, and the metadata."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING

from rag_pipeline.documents.cleaning import clean_tags
from rag_pipeline.documents.parsing.dates import parse_pdf_date
from rag_pipeline.documents.parsing.extracted_document import ExtractedDocument
from rag_pipeline.errors import DocumentError, one_line

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MAX_PAGES = 5_000
MAX_CHARACTERS = 16 * 1024 * 1024

_pdfium = Lock()
"""PDFium must not be called from two threads, not even for different documents."""

_HYPHENATED = re.compile(r"[\x02\ufffe\u00ad]\s*\n|(?<=[a-z])-\n(?=[a-z])")
_OTHER_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
_STARTS_PARAGRAPH = re.compile(
    r"[•・●○■□◆◇▪※*–]|-\s|[(（]?\d{1,3}[.)．）]\s*\D|第[\d一二三四五六七八九十]+[章節条項]"
)
_LOOKS_LIKE_MARKUP = re.compile(r"(?=#{1,6}(?:\s|$)|```|~~~)", re.MULTILINE)
_NARROW = 30
"""Width of a page's widest line, in half-width characters, below which its lines are not running text."""


def read_pdf(data: bytes) -> ExtractedDocument:
    """Extract the text of a PDF, one block per paragraph, and its title, author, keywords and creation date.

    Raises `DocumentError` if the file is broken, encrypted or has no text (scanned). Pages and characters beyond the
    limits are left out, with a warning. PDFium cannot be interrupted, and there are files that it never finishes.
    """
    with _open(data) as document:
        metadata = {key: _metadata(document, key) for key in ("Title", "Author", "Keywords", "CreationDate")}
        pages, warnings = _pages(document)
    if not any(page.strip() for page in pages):
        raise DocumentError("the PDF has no text, so it is probably scanned: run OCR on it first")
    return ExtractedDocument(
        markdown="\n\n".join(paragraph for page in pages for paragraph in _paragraphs(page)),
        title=metadata["Title"] or None,
        author=metadata["Author"] or None,
        tags=clean_tags(metadata["Keywords"]),
        stated_date=_stated_date(metadata["CreationDate"]),
        warnings=warnings,
    )


def created_at(data: bytes) -> datetime | None:
    """Return the date in the metadata of a PDF. Raises `DocumentError` if it is broken or encrypted."""
    with _open(data) as document:
        return parse_pdf_date(_metadata(document, "CreationDate"))


def _stated_date(text: str) -> str | None:
    moment = parse_pdf_date(text)
    return moment.isoformat() if moment else text or None


@contextmanager
def _open(data: bytes) -> Iterator[PdfDocument]:
    import pypdfium2

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
                raise DocumentError("the file is encrypted: save it without a password") from None
            raise DocumentError(f"broken PDF ({one_line(error, 120)}): save it again") from None
        try:
            yield document
        except (pypdfium2.PdfiumError, ValueError, AssertionError) as error:
            raise DocumentError(f"broken PDF ({one_line(error, 120)}): save it again") from None
        finally:
            document.close()  # closes its pages too, under the lock


def _metadata(document: PdfDocument, key: str) -> str:
    try:
        return str(document.get_metadata_value(key)).strip()
    except UnicodeError:  # a field that is not text counts as missing
        return ""


def _pages(document: PdfDocument) -> tuple[list[str], tuple[str, ...]]:
    from pypdfium2 import PdfiumError

    pages: list[str] = []
    characters = broken = 0
    count = len(document)
    for number in range(min(count, MAX_PAGES)):
        try:
            page = document[number]
            try:
                text = page.get_textpage().get_text_range()
            finally:
                page.close()
        except (PdfiumError, ValueError, AssertionError):
            broken += 1
            continue
        pages.append(text[: MAX_CHARACTERS - characters])
        characters += len(text)
        if characters >= MAX_CHARACTERS:
            break
    warnings = []
    if broken:
        warnings.append(f"{broken} of {count} pages could not be read")
    if len(pages) + broken < count or characters > MAX_CHARACTERS:
        warnings.append(f"only the first {len(pages) + broken} of {count} pages were read, up to the limit")
    return pages, tuple(warnings)


def _paragraphs(page: str) -> Iterator[str]:
    """Join the lines of a page into paragraphs by their widths, because a PDF only states where glyphs are."""
    page = _HYPHENATED.sub("", page.replace("\r\n", "\n").replace("\r", "\n"))
    lines = [line.strip() for line in _OTHER_CONTROL.sub("", page).split("\n")]
    widest = max(map(_width, lines))
    paragraph = previous = ""
    for line in lines:
        if paragraph and _continues(previous, line, widest):
            both_wide = _is_wide(paragraph[-1]) and _is_wide(line[0])
            paragraph += line if both_wide else f" {line}"
        else:
            if paragraph:
                yield _LOOKS_LIKE_MARKUP.sub(r"\\", paragraph, count=1)
            paragraph = line
        previous = line
    if paragraph:
        yield _LOOKS_LIKE_MARKUP.sub(r"\\", paragraph, count=1)


def _continues(line: str, following: str, widest: int) -> bool:
    """Return whether a paragraph continues in the following line."""
    if not line or not following or widest < _NARROW or _STARTS_PARAGRAPH.match(following):
        return False
    share = _width(line) / widest
    if line[-1] in "。．.!?！？:：;；":
        return share >= 0.75
    return share >= 0.6 or following[0].islower()


def _width(line: str) -> int:
    return len(line) + sum(map(_is_wide, line))


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
