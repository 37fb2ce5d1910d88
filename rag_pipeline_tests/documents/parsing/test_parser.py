from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_pipeline.documents.parsing.parsed_document import ParsedDocument
from rag_pipeline.documents.parsing.parser import (
    HEAD_BYTES,
    SUPPORTED_EXTENSIONS,
    created_at,
    needs_whole_file,
    parse,
)
from rag_pipeline.errors import DocumentError
from rag_pipeline_tests.support.document_files import ENCRYPTED_PDF, docx, pdf

JAPANESE = "これは日本語の本文です。検索のために書かれました。"


@pytest.mark.parametrize(
    ("data", "name", "title"),
    [
        (b"---\ntitle: Front\n---\n# Heading", "a.md", "Front"),
        (b"text\n\n## Heading `x` *y*\n\n# Other", "a.md", "Heading x y"),
        (b"```\n# no heading\n```\n", "手順書.md", "手順書"),
        (b"<title>Page</title><h1>Heading</h1>", "a.html", "Page"),
        (b"plain text", "notes.v2.txt", "notes.v2"),
        (pdf(["text"], info={"Title": "Metadata"}), "a.pdf", "Metadata"),
        (pdf(["text"]), "a.pdf", "a"),
        (pdf(["text"], info={"Title": "untitled"}), "仕様書.pdf", "仕様書"),
        (pdf(["text"], info={"Title": "Microsoft Word - 報告書.docx"}), "a.pdf", "報告書"),
        (pdf(["text"], info={"Title": "Microsoft Word - 文書 1"}), "仕様書.pdf", "仕様書"),
        (docx([("heading 1", "Heading")], core="<dc:title>無題</dc:title>"), "a.docx", "Heading"),
        (docx([("", "text")], core="<dc:title>Document1</dc:title>"), "仕様書.docx", "仕様書"),
        (b"<title>Untitled Document</title><h1>Heading</h1>", "a.html", "Heading"),
        (b"<title>Document retention</title><p>text", "a.html", "Document retention"),
        (b"---\ntitle: untitled\n---\ntext", "a.md", "untitled"),
        (docx([("heading 1", "Heading")], core="<dc:title>Property</dc:title>"), "a.docx", "Property"),
        (docx([("heading 1", "Heading")]), "a.docx", "Heading"),
        (b"text", "\u3000.md", ".md"),
    ],
)
def test_title(data: bytes, name: str, title: str) -> None:
    assert parse(data, name).title == title


@pytest.mark.parametrize(
    ("data", "name", "read_as"),
    [
        (pdf(["inside"]), "a.txt", "PDF"),
        (docx([("", "inside")]), "a.md", "DOCX"),
        (b"\xef\xbb\xbf<!DOCTYPE HTML><html><body>inside", "a.txt", "HTML"),
        (b"<html><body>inside", "a.pdf", "HTML"),
    ],
)
def test_the_content_takes_precedence_over_the_extension(data: bytes, name: str, read_as: str) -> None:
    document = parse(data, name)
    assert document.markdown == "inside"
    assert document.warnings == (f"the extension does not match the content: the file was read as {read_as}",)


@pytest.mark.parametrize("name", ["report", "report.bin"])
def test_recognised_content_needs_no_known_extension(name: str) -> None:
    document = parse(pdf(["inside"]), name)
    assert (document.markdown, document.warnings) == ("inside", ())


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.md", "a.md: the file is empty"),
        (b" \n\t", "a.txt", "a.txt: the file is empty"),
        (b"---\ntitle: x\n---\n", "a.md", "a.md: the file contains no text"),
        ("　\n".encode(), "a.md", "a.md: the file contains no text"),
        (b"<nav></nav>", "a.html", "a.html: the file contains no text"),
        (b"a\x00b", "a.txt", "a.txt: not a text file (it contains NUL bytes)"),
        (b"text", "a.xyz", "a.xyz: .xyz is not a supported format: use .md .txt .html .pdf .docx"),
        (b"text", "Makefile", "Makefile: the file name has no extension: use .md .txt"),
        (b"\x89PNG\r\n\x1a\n\x00", "a.png", "a.png: .png is not a supported format"),
        (b"text", "a.pdf", "a.pdf: broken PDF"),
        (b"text", "a.docx", "a.docx: broken DOCX"),
        (b"", "two\nlines.md", "two lines.md: the file is empty"),
    ],
)
def test_errors_are_one_line_that_names_the_file(data: bytes, name: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(data, name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "name", "given_language", "language"),
    [
        (f"---\nlang: en\n---\n{JAPANESE}", "a.md", "fr", "en"),
        (JAPANESE, "a.md", "fr", "fr"),
        (JAPANESE, "a.md", None, "ja"),
        (f'<html lang="en"><body>{JAPANESE}', "a.html", None, "ja"),
        ('<html lang="nb"><body>Dette er en norsk setning om vær.', "a.html", None, "nb"),
        ("Budget approved.", "a.txt", None, "en"),
        ("Call Bob tomorrow", "a.md", None, "en"),
        ("人工知能", "a.md", None, "ja"),
        ("人工知能", "a.md", "zh", "zh"),
        ('<html lang="zh"><body>人工知能', "a.html", None, "zh"),
        ("2024-01-05", "a.txt", None, None),
    ],
)
def test_language(text: str, name: str, given_language: str | None, language: str | None) -> None:
    assert parse(text.encode(), name, language=given_language).language == language


def test_text_is_kept_as_written_except_what_cannot_be_stored() -> None:
    text = "ガ\u304b\u3099①㌔ｶﾞ\u200b　\r\n\tCRLF\rCR\ufeff\n\n    code"
    assert parse(text.encode(), "a.md").markdown == "ガ\u304b\u3099①㌔ｶﾞ\u200b　\n\tCRLF\nCR\n\n    code"
    assert "\ud800" not in parse(b"<p>a&#xD800;b&#0;c</p>", "a.html").markdown


def test_fields_are_cut_to_the_size_of_their_columns() -> None:
    long = "長" * 2000
    document = parse(
        f"---\ntitle: {long}\nauthor: {long}\ncategory: {long}\ntags: [{long}]\n---\ntext".encode(), "a.md"
    )
    assert [len(field or "") for field in (document.title, document.author, document.category)] == [1000, 255, 100]
    assert document.title.endswith("長…")
    assert [len(tag) for tag in document.tags] == [100]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"---\ntitle: x\ndate: 2024-01-05\n---\ntext", "a.md"),
        (b"\xef\xbb\xbf---\r\ndate: 2024-01-05\r\n---\r\ntext", "a.markdown"),
        ("---\ntitle: 題\ndate: 2024年1月5日\n---\n本文です。\n".encode("cp932"), "a.md"),
        (b'<html><head><meta name="date" content="2024-01-05"></head><body>text', "a.html"),
        (b"---\ndate: 2024-01-05\n---\n" + "長い本文。".encode() * 30_000, "a.md"),
    ],
)
def test_head_and_whole_file_have_the_same_date(data: bytes, name: str) -> None:
    day = datetime(2024, 1, 5, tzinfo=UTC)
    assert created_at(data[:HEAD_BYTES], name) == day
    assert created_at(data, name) == day


@pytest.mark.parametrize(
    ("data", "name", "has_date"),
    [
        (pdf(["text"], info={"CreationDate": "D:20240105"}), "a.pdf", True),
        (docx([], core="<dcterms:created>2024-01-05T00:00:00Z</dcterms:created>"), "a.docx", True),
        (docx([], core="<dcterms:created>2024-01-05</dcterms:created>" + " " * 2_000_000), "a.docx", False),
        (b'<html><head><meta name="date" content="2024-01-05"></head><body>text', "a.pdf", True),
        (pdf(["text"], info={"CreationDate": "D:20240105"}), "a.txt", False),
        (ENCRYPTED_PDF, "a.pdf", False),
        (pdf(["text"])[:300], "a.pdf", False),
        (docx([])[:300], "a.docx", False),
        (b"", "a.docx", False),
    ],
)
def test_dates_of_formats_that_have_them_at_the_end(data: bytes, name: str, has_date: bool) -> None:
    assert created_at(data, name) == (datetime(2024, 1, 5, tzinfo=UTC) if has_date else None)


def test_which_formats_need_the_whole_file() -> None:
    assert {extension for extension in SUPPORTED_EXTENSIONS if needs_whole_file("a" + extension)} == {
        ".pdf",
        ".docx",
    }
    assert needs_whole_file("A.PDF")


_NAMES = st.sampled_from(sorted("a" + extension for extension in SUPPORTED_EXTENSIONS))
_WHOLE = [(pdf(["text"], info={"Title": "t"}), "a.pdf"), (docx([("heading 1", "h"), ("", "t")]), "a.docx")]
_PREFIXES = st.sampled_from(
    [b"", b"%PDF-1.7\n", b"PK\x03\x04", b"<html>", b"---\n", b"\xff\xfe", b"\x1b$B", b"\xef\xbb\xbf"]
)


def _parsed_or_reason(data: bytes, name: str) -> ParsedDocument | str:
    try:
        return parse(data, name)
    except DocumentError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(_PREFIXES, st.binary(max_size=300), _NAMES)
def test_random_bytes_become_a_document_or_a_document_error(prefix: bytes, data: bytes, name: str) -> None:
    outcome = _parsed_or_reason(prefix + data, name)
    if isinstance(outcome, str):
        assert outcome.startswith(f"{name}: ")
        assert outcome.isprintable()
    else:
        assert outcome.title
        assert outcome.markdown.strip()
        assert "\x00" not in outcome.markdown + outcome.title
        outcome.markdown.encode()
    created_at(prefix + data, name)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_become_a_document_or_a_document_error(data: st.DataObject) -> None:
    whole, name = data.draw(st.sampled_from(_WHOLE))
    damaged = bytearray(whole)
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)):
        damaged[position] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(len(whole) // 2, len(whole))) :]
    outcome = _parsed_or_reason(bytes(damaged), name)
    assert outcome.startswith(f"{name}: ") if isinstance(outcome, str) else outcome.markdown


def test_importing_the_modules_imports_nothing_heavy() -> None:
    script = (
        "import sys, rag_pipeline.documents.parsing.parser, rag_pipeline.documents.chunking.chunker; "
        "print([m for m in ('lxml', 'bs4', 'markdownify', 'markdown_it', 'pypdfium2', 'mammoth', 'yaml', 'py3langid', "
        "'numpy', 'charset_normalizer') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
