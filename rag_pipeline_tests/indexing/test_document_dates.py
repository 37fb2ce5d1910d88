"""The month of a document: that of the date it states itself, as a scan finds it."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline_tests.documents.parsing.test_parser_pool import ENDLESS
from rag_pipeline_tests.support.document_files import ENCRYPTED_PDF, docx, pdf
from rag_pipeline_tests.support.index import Index

MODIFIED = Month(2025, 6)


def months(index: Index, **files: bytes) -> dict[str, Month]:
    """Scan these files, all modified in June 2025, and return the months of their documents."""
    for name, data in files.items():
        path = index.docs / name.replace("_", ".")
        path.write_bytes(data)
        os.utime(path, (MODIFIED.start.timestamp(),) * 2)
    with index.open(max_document_bytes=100_000) as pipeline:
        scan_source(pipeline, pipeline.source("docs"))
    rows = index.rows("SELECT name, document_created_at FROM source_items")
    return {name.rpartition("/")[2].replace(".", "_"): Month.of(moment) for name, moment in rows}


def test_every_format_states_its_date(index: Index) -> None:
    created = "<dcterms:created>2024-02-29T23:59:59Z</dcterms:created>"
    found = months(
        index,
        a_pdf=pdf(["text"], info={"CreationDate": "D:20240101083000+09'00'"}),
        a_docx=docx([("", "text")], core=created),
        a_md=b"---\ndate: 2024-03-05\n---\ntext",
        a_html=b"<meta name=date content=2024-04-30><p>text",
        a_txt=b"2024-05-01",
    )
    assert found == {
        "a_pdf": Month(2023, 12),
        "a_docx": Month(2024, 2),
        "a_md": Month(2024, 3),
        "a_html": Month(2024, 4),
        "a_txt": MODIFIED,
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a_pdf", pdf(["text"])),
        ("a_pdf", pdf(["text"], info={"CreationDate": "yesterday"})),
        ("a_pdf", ENCRYPTED_PDF),
        ("a_pdf", b"%PDF-1.7 and nothing else"),
        ("a_pdf", pdf(["text"], info={"CreationDate": "D:20240101"}) + b" " * 100_000),
        ("a_pdf", ENDLESS),
        ("a_docx", docx([("", "text")])),
        ("a_docx", docx([("", "text")], core="<dcterms:created>")),
        ("a_docx", b"PK\x03\x04 and nothing else"),
    ],
    ids=["no date", "no real date", "encrypted", "broken", "too large", "endless", "none", "broken XML", "no zip"],
)
def test_a_document_without_a_readable_date_is_dated_by_its_file(index: Index, name: str, data: bytes) -> None:
    assert months(index, **{name: data}) == {name: MODIFIED}


def test_a_date_that_is_not_used_is_a_warning_that_says_what_is_used_instead(index: Index) -> None:
    written = {"future": "9999-12-31", "past": "0001-01-01", "impossible": "2024-02-30", "ambiguous": "3/4/2024"}
    written |= {"era": "令和6年5月1日", "late": "2024-03-05 10:30 PM"}
    for name, date in written.items():
        path = index.docs / f"{name}.md"
        path.write_text(f"---\ndate: {date}\n---\n本文です。\n", "utf-8")
        os.utime(path, (MODIFIED.start.timestamp(),) * 2)
    result = index.ingest()
    warned = {source_id: warning for _, source_id, warning in result.document_warnings.newest}
    assert warned == {
        "docs:future.md": f"the date '9999-12-31' is in the future: {datetime.now(UTC):%Y-%m-%d} is used",
        "docs:past.md": "the date '0001-01-01' is before RAG_FIRST_MONTH (2000-01): 2000-01-01 is used",
        "docs:impossible.md": "the date '2024-02-30' is not a date that can be read: 2025-06-01 is used",
        "docs:ambiguous.md": "the date '3/4/2024' has two meanings, 2024-03-04 and 2024-04-03: 2025-06-01 is used",
    }
    assert [line.partition(":")[0] for line in result.document_warnings.lines()] == [
        "documents with warnings",
        "docs",
        "docs",
        "docs",
        "and 1 more documents with warnings",
    ]
    months = dict(index.rows("SELECT source_id, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM documents"))
    assert (months["docs:era.md"], months["docs:late.md"]) == ("2024-05", "2024-03")
