"""The month of a document: that of the date it states itself, as a scan finds it."""

from __future__ import annotations

import os

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
