"""Statuses: the enums are those of the database, and the transitions are those that really happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rag_pipeline.consistency.repair import repair
from rag_pipeline.errors import DataRefusedError, SourceError
from rag_pipeline.indexing import vector_writer
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.retention import apply_retention
from rag_pipeline.indexing.run_selection import pending_work
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.milvus import rows as milvus_rows
from rag_pipeline.stores.postgres import document_chunks, sources
from rag_pipeline.stores.postgres.statuses import (
    TRANSITIONS,
    EmbeddingStatus,
    IndexingStatus,
    ItemState,
    ProcessingStatus,
    Status,
    SyncStatus,
)
from rag_pipeline_tests.support.index import Index
from rag_pipeline_tests.support.stores import Stores

COLUMNS: dict[type[Status], tuple[str, str, str]] = {
    ItemState: ("source_items", "state", "valid_state"),
    ProcessingStatus: ("documents", "processing_status", "valid_processing_status"),
    IndexingStatus: ("documents", "indexing_status", "valid_indexing_status"),
    EmbeddingStatus: ("document_chunks", "embedding_status", "valid_embedding_status"),
    SyncStatus: ("sources", "sync_status", "valid_sync_status"),
}
MONTH = Month(2024, 3)
POISON = "毒"
TEXT = (
    "# 見出し\n\n索引の本文を置く場所である。\n\n## 一\n\n段落を正しく保つ方法を述べる。\n\n"
    "## 二\n\n{}索引を正しく保つ方法を述べる。\n"
)
"""Each of its sections is large enough for a chunk."""


@pytest.fixture
def index(tmp_path: Path, stores: Stores) -> Index:
    return Index(tmp_path, stores)


def _watch(index: Index) -> None:
    """Have triggers log every status that a row gets, has changed or takes with it."""
    with index.open():
        pass
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        connection.execute("CREATE TABLE observed (status_column TEXT, before TEXT, after TEXT)")
        connection.execute(
            """
            CREATE FUNCTION observe() RETURNS trigger AS $$
            BEGIN
                INSERT INTO observed VALUES (TG_ARGV[0], to_jsonb(OLD) ->> TG_ARGV[0], to_jsonb(NEW) ->> TG_ARGV[0]);
                RETURN NULL;
            END;
            $$ LANGUAGE plpgsql
            """
        )
        for table, column, _ in COLUMNS.values():
            connection.execute(
                f"CREATE TRIGGER observe_{column} AFTER INSERT OR UPDATE OR DELETE ON {table} "  # type: ignore[call-overload]
                f"FOR EACH ROW EXECUTE FUNCTION observe('{column}')"
            )


def _observed(index: Index) -> dict[str, set[tuple[str | None, str | None]]]:
    """Column → the (before, after) that were logged; what stayed as it was is left out."""
    found: dict[str, set[tuple[str | None, str | None]]] = {column: set() for _, column, _ in COLUMNS.values()}
    for column, before, after in index.rows("SELECT DISTINCT * FROM observed"):
        if before != after:
            found[column].add((before, after))
    return found


def _damage(index: Index, statement: str) -> None:
    """Change rows as a careless administrator would, unseen by triggers and foreign keys."""
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        connection.execute("SET session_replication_role = replica")
        assert connection.execute(statement).rowcount > 0  # type: ignore[call-overload]


def _scan(index: Index, **overrides: object) -> None:
    with index.open(**overrides) as pipeline:
        scan_source(pipeline, pipeline.source("docs"), confirm_deletions=True)


def _ingest(index: Index) -> None:
    index.ingest(confirm_deletions=True)


def _store(index: Index, *steps: Callable[[Any, Month], object]) -> None:
    """Scan, store what is pending, and run these steps after it: a run that is killed before the others."""
    _scan(index)
    with index.open() as pipeline:
        for step in (ingest_documents, *steps):
            step(pipeline, MONTH)


def _unreadable(index: Index, name: str) -> None:
    """Replace a document by a link that leads nowhere."""
    index.docs.joinpath(name).unlink()
    index.docs.joinpath(name).symlink_to("nowhere")


@contextmanager
def _hidden(path: Path) -> Iterator[None]:
    """Take a file or folder away for a moment."""
    away = path.parent.parent / "away"
    path.rename(away)
    yield
    away.rename(path)


def edits_and_moves(index: Index) -> None:
    path = index.write("edited.md", TEXT.format("最初。"))
    _ingest(index)
    index.write("edited.md", TEXT.format("次。"))
    _ingest(index)
    index.write("edited.md", TEXT.format("次。") + "\n## 三\n\n最後。\n")
    path.rename(index.docs / "moved.md")
    _ingest(index)
    # Chunked, and edited before its vectors are written.
    index.write("moved.md", TEXT.format("まだない。"))
    _store(index, chunk_documents)
    index.write("moved.md", TEXT.format("もうある。"))
    _store(index, chunk_documents)
    index.docs.joinpath("moved.md").unlink()
    _ingest(index)


def gone_files(index: Index) -> None:
    path = index.write("gone.md", TEXT.format("消える。"))
    index.write("stays.md", TEXT.format("残る。"))
    _ingest(index)
    with _hidden(path):
        _scan(index)
    _scan(index)  # back, as it was
    with _hidden(path):
        _scan(index)
    index.write("gone.md", TEXT.format("戻る。"))
    _scan(index)  # back, and changed
    _ingest(index)
    with _hidden(path):
        index.write("gone.md", TEXT.format("変わる。"))
        _scan(index)  # changed
        path.unlink()
    _scan(index)  # and changed back
    index.write("brief.md", TEXT.format("一瞬。"))
    _scan(index)
    index.docs.joinpath("brief.md").unlink()
    _ingest(index)
    for name, steps in (("stored.md", ()), ("chunked.md", (chunk_documents,))):
        index.write(name, TEXT.format("途中で消える。"))
        _store(index, *steps)
        index.docs.joinpath(name).unlink()
        _ingest(index)


def unreadable_documents(index: Index) -> None:
    path = index.write("unreadable.md", TEXT.format("読める。"))
    index.docs.joinpath("broken.pdf").write_bytes(b"no PDF at all")
    _ingest(index)
    with index.open() as pipeline:
        _damage(index, "UPDATE source_items SET retry_at = now() WHERE state = 'failed'")
        pending_work(pipeline)
    _ingest(index)
    index.ingest(retry_failed=True)
    index.docs.joinpath("broken.pdf").unlink()
    with _hidden(path):
        path.symlink_to("nowhere")
        _ingest(index)
        path.unlink()
    _ingest(index)  # the stored version is back
    _unreadable(index, "unreadable.md")
    _ingest(index)
    path.unlink()
    index.write("unreadable.md", TEXT.format("直した。"))
    _ingest(index)
    # New bytes are stored, and replaced by some that cannot be read before they are chunked.
    index.write("unreadable.md", TEXT.format("まだ切られていない。"))
    _store(index)
    _unreadable(index, "unreadable.md")
    _ingest(index)  # chunked all the same
    index.ingest(retry_failed=True)
    path.unlink()
    _ingest(index)


def poison_chunks(index: Index) -> None:
    index.embedder.poison = POISON
    index.write("poison.md", TEXT.format(POISON))
    _ingest(index)
    with index.open() as pipeline:
        _damage(index, "UPDATE documents SET retry_at = now() WHERE indexing_status = 'failed'")
        pending_work(pipeline)
    _ingest(index)
    index.ingest(retry_failed=True)
    index.write("poison.md", TEXT.format(f"{POISON}が変わった"))
    _ingest(index)
    index.write("poison.md", TEXT.format(f"{POISON}が変わった") + "\n## 三\n\n加えた。\n")
    _ingest(index)
    index.docs.joinpath("poison.md").unlink()
    _ingest(index)
    index.embedder.poison = None


def chunks_that_cannot_be_written(index: Index) -> None:
    """A batch is written again in halves, so that one chunk fails alone."""
    index.write("unwritten.md", TEXT.format("書けない。"))
    refused: list[str] = []

    def upsert(milvus: Any, collection: str, month: Month, rows: list[dict[str, Any]]) -> None:
        refused.append(rows[0]["id"][:36])
        if any(row["id"].startswith(refused[0]) for row in rows):
            raise DataRefusedError("refused")
        milvus_rows.upsert(milvus, collection, month, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_writer, "rows", _Rows(upsert))
        _ingest(index)
    index.ingest(retry_failed=True)


def _claim_beside_others(pipeline: Pipeline, month: Month) -> None:
    with pipeline.stores.database.connection() as connection:
        assert document_chunks.claim(connection, month, pipeline.vectors, 10, None, shared=True)


class _Rows:
    """The module `rows` with another `upsert`."""

    def __init__(self, upsert: Callable[..., None]) -> None:
        self.upsert = upsert

    def __getattr__(self, name: str) -> object:
        return getattr(milvus_rows, name)


def killed_workers(index: Index) -> None:
    index.write("killed.md", TEXT.format("途中で止まる。"))
    _store(index, chunk_documents, _claim_beside_others)
    index.write("killed.md", TEXT.format("書き直した。").replace("見出し", "題"))
    _ingest(index)
    index.write("killed.md", TEXT.format("一種類ずつ。"))
    _store(index, chunk_documents, _claim_beside_others)
    with index.open() as pipeline:
        for kind in pipeline.settings.vectors:
            index_vectors(pipeline, MONTH, [kind])
    for text in ("全種類。", POISON):
        index.embedder.poison = POISON
        index.write("killed.md", TEXT.format(text))
        _store(index, chunk_documents, _claim_beside_others)
        _ingest(index)
    index.embedder.poison = None


def failed_scans(index: Index) -> None:
    with _hidden(index.docs), pytest.raises(SourceError, match="source docs"):
        _scan(index)
    _scan(index)


def retention(index: Index) -> None:
    """What is kept does not reach back to 2024, the month of all items."""
    kept = {"retention_months": 1}
    index.write("old.md", TEXT.format("古い。"))
    index.write("again.md", TEXT.format("古い。"))
    index.docs.joinpath("broken.pdf").write_bytes(b"no PDF at all")
    _ingest(index)
    _age(index)
    index.write("new.md", TEXT.format("保存だけ。"))
    _scan(index)
    with index.open(**kept) as pipeline:
        apply_retention(pipeline)
    index.write("late.md", TEXT.format("遅れて来た。"))
    _scan(index, **kept)
    index.docs.joinpath("late.md").unlink()
    _scan(index, **kept)
    _ingest(index)  # all months are kept again
    # Changed or gone before the retention is on.
    _age(index)
    again = index.docs / "again.md"
    with _hidden(again):
        _scan(index)
    index.write("old.md", TEXT.format("変わった。"))
    index.write("again.md", TEXT.format("変わった。"))
    index.docs.joinpath("broken.pdf").write_bytes(b"still no PDF at all")
    _scan(index, **kept)
    _ingest(index)


def _age(index: Index) -> None:
    """Date what has no date of its own like the rest."""
    _damage(index, "UPDATE source_items SET document_created_at = '2024-03-05' WHERE name = 'broken.pdf'")


def repairs(index: Index) -> None:
    for name in ("count.md", "failed.md", "vectors.md", "lost.md"):
        index.write(name, TEXT.format(name))
    _ingest(index)
    chunk = "document_id = (SELECT id FROM documents WHERE source_id = 'docs:{}')"
    _damage(index, "UPDATE documents SET chunk_count = 99 WHERE source_id = 'docs:count.md'")
    _damage(index, f"UPDATE document_chunks SET embedding_status = 'failed' WHERE {chunk.format('failed.md')}")
    _damage(index, f"DELETE FROM document_chunks WHERE {chunk.format('lost.md')}")
    _damage(index, "DELETE FROM documents WHERE source_id = 'docs:lost.md'")
    chunks = index.rows(f"SELECT id FROM document_chunks WHERE {chunk.format('vectors.md')}")
    with index.open() as pipeline:
        name = pipeline.collections.generations["dense"].name
        milvus_rows.delete(pipeline.stores.milvus, name, [f"{chunk}_dense" for (chunk,) in chunks])
        assert repair(pipeline).remaining.consistent


def removed_sources(index: Index) -> None:
    index.write("removed.md", TEXT.format("源と共に去る。"))
    _ingest(index)
    with index.open() as pipeline, pipeline.stores.database.connection() as connection:
        sources.deactivate_unconfigured(connection, [])
        assert sources.remove(connection, "docs", 100) > 0
    _ingest(index)


SCENES = (
    edits_and_moves,
    gone_files,
    unreadable_documents,
    poison_chunks,
    chunks_that_cannot_be_written,
    killed_workers,
    failed_scans,
    repairs,
    retention,
    removed_sources,
)


@pytest.mark.timeout(300)
def test_the_transitions_are_those_that_happen(index: Index) -> None:
    _watch(index)
    for scene in SCENES:
        scene(index)
    observed = _observed(index)
    for status, (_, column, _) in COLUMNS.items():
        assert observed[column] - TRANSITIONS[status] == set(), f"{column}: not in the table"
        assert TRANSITIONS[status] - observed[column] == set(), f"{column}: in the table, and did not happen"


@pytest.mark.parametrize("status", COLUMNS, ids=lambda status: status.__name__)
def test_the_database_allows_the_members_and_nothing_else(index: Index, status: type[Status]) -> None:
    with index.open():
        pass
    table, column, constraint = COLUMNS[status]
    rows = index.rows(
        """
        SELECT DISTINCT match[1] FROM pg_constraint,
            regexp_matches(pg_get_constraintdef(oid), '''(\\w+)''', 'g') AS match
        WHERE conrelid = %s::regclass AND conname = %s AND pg_get_constraintdef(oid) LIKE %s
        """,
        table,
        constraint,
        f"%{column}%",
    )
    assert {value for (value,) in rows} == set(status)
