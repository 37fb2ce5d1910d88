"""Files that are made to stop or to fill whoever reads them, in a source with others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline_tests.documents.parsing.test_parser_pool import PAGE, SLOW, busy_worker
from rag_pipeline_tests.support.document_files import docx, hostile_files, pdf
from rag_pipeline_tests.support.index import Index
from rag_pipeline_tests.support.workspace import clean_environment

MONTH = Month(2024, 3)
LIBRARY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings

with Pipeline(load_settings()) as pipeline:
    pipeline.prepare()
    ingest(pipeline)
"""
MODIFIED = MONTH.start.timestamp() + 86_400


@pytest.mark.slow
def test_hostile_documents_are_quarantined_and_their_neighbours_ingested(index: Index) -> None:
    good = {"a.html": PAGE, "z.html": PAGE, "a.pdf": pdf(["Text."]), "z.pdf": pdf(["Text."])}
    good |= {"a.docx": docx([("", "Text.")]), "z.docx": docx([("", "Text.")]), "a.md": b"# Text"}
    hostile = hostile_files()
    for name, data in (hostile | good).items():
        (index.docs / name).write_bytes(data)
        os.utime(index.docs / name, (MODIFIED, MODIFIED))

    with index.open(parse_seconds=20, parse_memory_mb=768) as pipeline:
        scan_source(pipeline, pipeline.source("docs"))
        result = ingest_documents(pipeline, MONTH)
        again = ingest_documents(pipeline, MONTH)

    assert (again.stored, again.quarantined) == (0, []), "they are not tried again before their time"
    reasons = {source_id.rpartition(":")[2]: reason for source_id, reason in result.quarantined}
    for name in ("doubling.pdf", "endless.pdf", "paragraphs.docx"):
        # Whichever comes first, depending on the machine.
        assert "RAG_PARSE_SECONDS (20)" in reasons[name] or "RAG_PARSE_MEMORY_MB (768)" in reasons[name]
    assert "more than 1,000,000 tags" in reasons["elements.html"]
    for name in ("numbered.html", "columns.html"):  # read in seconds, if the machine is not too busy
        assert name not in reasons or "RAG_PARSE_SECONDS (20)" in reasons[name]
    ingested = {name.rpartition(":")[2] for (name,) in index.rows("SELECT source_id FROM documents")}
    assert ingested == (set(hostile) | set(good)) - set(reasons)
    assert ingested >= set(good)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        (["-m", "rag_pipeline.cli", "ingest"], "rag-pipeline: interrupted: scanned 1 items"),
        (["-c", LIBRARY], "KeyboardInterrupt"),
    ],
    ids=["command", "library"],
)
def test_an_interrupt_does_not_wait_for_a_document(index: Index, arguments: list[str], last_line: str) -> None:
    (index.docs / "slow.html").write_bytes(SLOW)
    ingesting = subprocess.Popen(
        [sys.executable, *arguments],
        env=clean_environment() | index.variables | {"RAG_PARSE_SECONDS": "300"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = busy_worker(ingesting.pid)
    ingesting.send_signal(signal.SIGINT)
    _, errors = ingesting.communicate(timeout=100)
    assert errors.splitlines()[-1].startswith(last_line)
    assert psutil.wait_procs([worker], timeout=60)[1] == []
    assert index.rows("SELECT state FROM source_items") == [("pending",)]
