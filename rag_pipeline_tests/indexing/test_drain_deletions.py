"""Draining the outbox: one process at a time, and no transaction stays open while Milvus works."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rag_pipeline.indexing import drain_deletions as module
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline_tests.support.index import Index

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


def test_what_another_process_is_draining_is_left_to_it(deleted: Index) -> None:
    with deleted.open() as pipeline:
        with advisory_lock(pipeline.stores.database, "the outbox of deletions", 0):
            assert drain_deletions(pipeline, deadline=time.monotonic()) == 0
        assert drain_deletions(pipeline) == 1
