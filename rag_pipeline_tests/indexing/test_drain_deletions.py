"""Draining the outbox: one process at a time, and no transaction stays open while Milvus works."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rag_pipeline.indexing import drain_deletions as module
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.collections import Collections, generations
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline_tests.support.index import Index
from rag_pipeline_tests.support.index_state import stored_ids
from rag_pipeline_tests.support.milvus import milvus_client

OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"


@pytest.fixture
def deleted(index: Index) -> Index:
    """An index whose only document was deleted by hand."""
    index.write("a.md", "# 見出し\n\n本文。\n")
    index.ingest()
    index.rows("DELETE FROM documents")
    return index


def test_no_transaction_is_open_while_milvus_deletes(deleted: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, seen = module.rows.delete, []

    def watched(*arguments: Any) -> Any:
        seen.extend(deleted.rows(OPEN))
        return delete(*arguments)

    monkeypatch.setattr(module.rows, "delete", watched)
    with deleted.open() as pipeline:
        assert drain_deletions(pipeline) == 1
        assert drain_deletions(pipeline) == 0
    assert seen
    assert set(seen) == {(0,)}


def test_a_generation_that_is_begun_during_a_drain_keeps_no_vector_of_what_is_deleted_then(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its build ends before the second document is deleted, and the drain has begun before that."""
    for name in "ab":
        index.write(f"{name}.md", "# 見出し\n\n本文。\n")
    index.ingest()
    index.rows("DELETE FROM documents WHERE source_id = 'docs:a.md'")
    [(chunk,)] = index.rows("SELECT id FROM document_chunks")
    begun = generations(index.prefix, "new", 64, 64, ("dense",), own_aliases=True, has_sources=True, is_live=False)
    name, partition = begun["dense"].name, Month(2024, 3).milvus_partition
    delete = module.rows.delete

    with index.open() as pipeline, milvus_client(index.endpoints.milvus_uri) as client:

        def build_first(*arguments: Any) -> Any:
            if not client.has_collection(name):
                Collections(pipeline.stores.milvus, begun).ensure(Month(2024, 3))
                [row] = client.get(index.collections()["dense"], ids=[f"{chunk}_dense"])
                client.upsert(name, [dict(row)], partition_name=partition)
                index.rows("DELETE FROM documents")
            return delete(*arguments)

        monkeypatch.setattr(module, "_BATCH", 1)
        monkeypatch.setattr(module.rows, "delete", build_first)
        assert drain_deletions(pipeline) == 2
    assert index.rows("SELECT * FROM vector_deletions") == []
    assert stored_ids(index.endpoints.milvus_uri, name) == {}


def test_what_another_process_is_draining_is_left_to_it(deleted: Index) -> None:
    with deleted.open() as pipeline:
        with advisory_lock(pipeline.stores.database, "the outbox of deletions", 0):
            assert drain_deletions(pipeline, deadline=time.monotonic()) == 0
        assert drain_deletions(pipeline) == 1
