from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rag_pipeline.documents.parsing.parser import pdf as module
from rag_pipeline.documents.parsing.pdf import created_at, read_pdf
from rag_pipeline.errors import DocumentError
from rag_pipeline_tests.support.document_files import ENCRYPTED_PDF, pdf

LONG = "これは長い行で、次の行に続きますから、途中で切れてはいけませ"


def test_lines_are_joined_into_paragraphs() -> None:
    document = read_pdf(
        pdf(
            ["見出し", LONG, "ん。短い行です。", "・項目", "# 1"],
            ["An English line that is quite long and goes", "on here."],
        )
    )
    assert document.markdown == (
        f"見出し\n\n{LONG}ん。短い行です。\n\n・項目\n\n\\# 1\n\nAn English line that is quite long and goes on here."
    )


def test_metadata() -> None:
    info = {
        "Title": "報告書",
        "Author": "山田",
        "Keywords": "a; b",
        "CreationDate": "D:20240105093000+09'00'",
    }
    data = pdf(["本文"], info=info)
    document = read_pdf(data)
    assert (document.title, document.author, document.tags) == ("報告書", "山田", ("a", "b"))
    assert created_at(data) == datetime(2024, 1, 5, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ENCRYPTED_PDF, "encrypted: save it without a password"),
        (pdf([]), "scanned: run OCR"),
        (b"%PDF-1.7 and nothing else", "broken PDF"),
        (pdf(["text"])[:300], "broken PDF|no text"),
    ],
)
def test_unreadable_files_are_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read_pdf(data)


def test_pages_and_characters_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 2)
    document = read_pdf(pdf(["one"], ["two"], ["three"]))
    assert document.markdown == "one\n\ntwo"
    assert "first 2 of 3 pages" in document.warnings[0]
    monkeypatch.setattr(module, "MAX_CHARACTERS", 5)
    document = read_pdf(pdf(["one"], ["two", "and more"]))
    assert document.markdown == "one\n\ntw"
    assert document.warnings


def test_many_threads_at_once() -> None:
    files = [pdf(*([f"file {number} page {page}"] for page in range(10))) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        documents = list(pool.map(read_pdf, files))
    for number, document in enumerate(documents):
        assert document.markdown == "\n\n".join(f"file {number} page {page}" for page in range(10))
