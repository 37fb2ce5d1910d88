"""Several workers work on a month at the same time, here as threads: each chunk and document is taken by one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rag_pipeline.errors import DataRefusedError
from rag_pipeline.indexing import vector_writer
from rag_pipeline.indexing.chunk_documents import chunk_claimed, chunk_documents
from rag_pipeline.indexing.index_vectors import embed_claimed, index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.milvus import rows as milvus_rows
from rag_pipeline_tests.support.index import Index, sections

MONTH = Month(2024, 3)


def _store(index: Index, documents: int) -> None:
    for number in range(documents):
        index.write(f"{number}.md", sections(*(f"節{number}の{n}" for n in range(12))))
    with index.open() as pipeline:
        scan_source(pipeline, pipeline.source("docs"))
        ingest_documents(pipeline, MONTH)


def _side_by_side(index: Index, task: Any, *arguments: object) -> list[list[Any]]:
    """Have three workers do a task, each with a pipeline of its own; return what each reported."""

    def work(_: int) -> list[Any]:
        reported: list[Any] = []
        with index.open() as pipeline:
            task(pipeline, reported.append, MONTH, *arguments)
        return reported

    with ThreadPoolExecutor(3) as workers:
        return list(workers.map(work, range(3)))


def test_documents_and_chunks_are_taken_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_pipeline.indexing.chunk_documents._BATCH", 3)
    _store(index, 20)
    cut = _side_by_side(index, chunk_claimed)
    assert sum(batch.documents for batches in cut for batch in batches) == 20
    chunks = sum(batch.added for batches in cut for batch in batches)
    with index.open() as pipeline:
        pipeline.collections.ensure(MONTH)
    done = _side_by_side(index, embed_claimed, VECTOR_KINDS)
    written = [chunk for batches in done for batch in batches for chunk in batch.written]
    assert len(written) == len(set(written)) == chunks == index.embedder.texts
    with index.open() as pipeline:
        assert index_vectors(pipeline, MONTH).documents_switched == 20
    index.assert_consistent()


def test_nobody_takes_a_batch_while_its_halves_are_tried(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    _store(index, 2)
    with index.open() as pipeline:
        chunk_documents(pipeline, MONTH)
        pipeline.collections.ensure(MONTH)
    (bad,) = index.rows("SELECT id::text FROM document_chunks WHERE position = 3 LIMIT 1")[0]
    pending: list[int] = []
    store = milvus_rows.upsert

    def upsert(milvus: Any, collection: str, month: Month, rows: list[dict[str, Any]]) -> None:
        (left,) = index.rows("SELECT count(*) FROM document_chunks WHERE embedding_status = 'pending'")[0]
        pending.append(left)
        if any(row["id"].startswith(bad) for row in rows):
            raise DataRefusedError("refused")
        store(milvus, collection, month, rows)

    monkeypatch.setattr(vector_writer.rows, "upsert", upsert)
    reported: list[Any] = []
    with index.open(batch_size=64) as pipeline:
        embed_claimed(pipeline, reported.append, MONTH, VECTOR_KINDS)
    assert set(pending) == {0}
    assert [reason for batch in reported for _, reason in batch.failed] == ["refused"]
    statuses = dict(index.rows("SELECT embedding_status, count(*) FROM document_chunks GROUP BY 1"))
    assert statuses.keys() == {"completed", "failed"}
