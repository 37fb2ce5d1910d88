"""Reader for Word documents (Office Open XML): their content as Markdown, and their core properties."""

from __future__ import annotations

import zipfile
import zlib
from datetime import datetime
from io import BytesIO

from rag_pipeline.documents.cleaning import clean_tags
from rag_pipeline.documents.parsing.dates import parse_date
from rag_pipeline.documents.parsing.extracted_document import ExtractedDocument
from rag_pipeline.documents.parsing.html import markdown_of
from rag_pipeline.errors import DocumentError, one_line

MAX_XML_BYTES = 64 * 1024 * 1024
"""Limit for all XML parts, unpacked. The parser holds several copies in memory."""
MAX_PARTS = 10_000
_MAX_PROPERTIES_BYTES = 1024 * 1024

_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
_DOCUMENT = "word/document.xml"
_PROPERTIES = "docProps/core.xml"

_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='表題'] => h1:fresh
p[style-name='見出し 1'] => h1:fresh
p[style-name='見出し 2'] => h2:fresh
p[style-name='見出し 3'] => h3:fresh
p[style-name='見出し 4'] => h4:fresh
p[style-name='見出し 5'] => h5:fresh
p[style-name='見出し 6'] => h6:fresh
"""
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "cp": "http://schemas.openxmlformats.org/package/2006/metadata/core-properties",
}


def is_docx(data: bytes) -> bool:
    """Return whether the bytes are a zip archive that holds a Word document."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _DOCUMENT in archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False


def read_docx(data: bytes) -> ExtractedDocument:
    """Extract the text of a Word document with its headings, lists and tables, and its core properties; no images.

    Raises `DocumentError` if the file is broken, encrypted, in a format older than Word 2007, or would unpack to
    more than `MAX_XML_BYTES`.
    """
    if data.startswith(_OLE):
        raise DocumentError("the file is encrypted or from before Word 2007: save it as .docx without a password")
    try:
        _check_sizes(data)
        html = _html(data)
        properties = _properties(data)
    except (DocumentError, MemoryError):
        raise
    except Exception as error:  # a broken part can make mammoth raise anything
        reason = one_line(error, 120) if str(error).isprintable() else type(error).__name__
        raise DocumentError(f"broken DOCX ({reason}): open it in Word and save it again") from None
    return ExtractedDocument(
        markdown=markdown_of(html),
        title=properties.get("dc:title"),
        author=properties.get("dc:creator"),
        language=properties.get("dc:language"),
        category=properties.get("cp:category"),
        tags=clean_tags(properties.get("cp:keywords", "")),
        stated_date=properties.get("dcterms:created"),
    )


def created_at(data: bytes) -> datetime | None:
    """Return the date in the core properties of a Word document. Raises `DocumentError` if it is broken."""
    try:
        return parse_date(_properties(data).get("dcterms:created"))
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError):
        raise DocumentError("broken DOCX: open it in Word and save it again") from None


def _check_sizes(data: bytes) -> None:
    # zipfile reads no more than a part's declared size, so the declared sizes are a safe limit.
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts = archive.infolist()
    size = sum(part.file_size for part in parts if part.filename.lower().endswith((".xml", ".rels")))
    if size > MAX_XML_BYTES or len(parts) > MAX_PARTS:
        raise DocumentError(
            f"the file unpacks to {size:,} bytes in {len(parts):,} parts, more than is safe: split it"
        )


def _html(data: bytes) -> str:
    import mammoth

    return str(
        mammoth.convert_to_html(
            BytesIO(data),
            style_map=_STYLES,
            convert_image=lambda image: [],  # never opened: neither a data URI nor a file outside the archive
            external_file_access=False,
        ).value
    )


def _properties(data: bytes) -> dict[str, str]:
    """Return the core properties that are set (ECMA-376 part 2, 8), by their prefixed names."""
    from lxml import etree

    with zipfile.ZipFile(BytesIO(data)) as archive:
        if _PROPERTIES not in archive.namelist() or archive.getinfo(_PROPERTIES).file_size > _MAX_PROPERTIES_BYTES:
            return {}
        xml = archive.read(_PROPERTIES)
    try:
        root = etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))
    except etree.XMLSyntaxError:
        return {}
    names = ("dc:title", "dc:creator", "dc:language", "dcterms:created", "cp:category", "cp:keywords")
    texts = {name: (root.findtext(name, namespaces=_NAMESPACES) or "").strip() for name in names}
    return {name: text for name, text in texts.items() if text}
