from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from io import BytesIO

import pytest

from rag_pipeline.documents.parsing.docx import MAX_XML_BYTES, created_at, is_docx, read_docx
from rag_pipeline.errors import DocumentError
from rag_pipeline_tests.support.document_files import docx


def test_headings_text_and_tables() -> None:
    data = docx(
        [("Title", "題"), ("heading 2", "節"), ("", "本文 <です>。"), ("見出し 3", "小節")],
        table=[["名", "値"], ["a|b", "1"]],
    )
    assert read_docx(data).markdown == (
        "# 題\n\n## 節\n\n本文 <です>。\n\n### 小節\n\n| 名 | 値 |\n| --- | --- |\n| a\\|b | 1 |"
    )


def test_core_properties() -> None:
    data = docx(
        [("", "本文")],
        core="<dc:title>題</dc:title><dc:creator>山田</dc:creator><dc:language>ja-JP</dc:language>"
        "<dcterms:created>2024-01-05T00:00:00Z</dcterms:created><cp:category>報告</cp:category>"
        "<cp:keywords>a、b</cp:keywords>",
    )
    document = read_docx(data)
    assert (document.title, document.author, document.language) == ("題", "山田", "ja-JP")
    assert (document.category, document.tags) == ("報告", ("a", "b"))
    assert created_at(data) == datetime(2024, 1, 5, tzinfo=UTC)


def test_broken_properties_do_not_reject_the_document() -> None:
    document = read_docx(docx([("", "本文")], core="<dc:title>"))
    assert (document.markdown, document.title) == ("本文", None)


def _bomb() -> bytes:
    out = BytesIO(docx([("", "本文")]))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("word/bomb.xml", "w") as part:
        for _ in range(MAX_XML_BYTES // 2**20 + 1):
            part.write(bytes(2**20))
    return out.getvalue()


def _without(name: str) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(docx([("", "本文")]))) as source, zipfile.ZipFile(out, "w") as target:
        for part in source.namelist():
            target.writestr(part, source.read(part) if part != name else "<w:document")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_bomb(), "unpacks to .* more than is safe"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "encrypted or from before Word 2007"),
        (docx([("", "本文")])[:200], "broken DOCX"),
        (_without("word/document.xml"), "broken DOCX"),
        (b"PK\x03\x04", "broken DOCX"),
    ],
)
def test_unreadable_files_are_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read_docx(data)


def test_a_zip_archive_is_not_a_word_document() -> None:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    assert not is_docx(out.getvalue())
    assert is_docx(docx([("", "a")]))
