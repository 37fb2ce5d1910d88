"""What changes many rows does so in transactions that PostgreSQL's minute is enough for, and goes on if interrupted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from rag_pipeline.indexing import index_vectors, ingest, ingest_documents, retention, scan
from rag_pipeline.indexing.index_vectors import reopen_incomplete
from rag_pipeline.indexing.ingest import deactivate_unconfigured, remove_source, retry_failed_documents
from rag_pipeline.indexing.retention import apply_retention
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import (
    built_kinds,
    document_chunks,
    documents,
    expiring_months,
    source_items,
    sources,
)
from rag_pipeline_tests.support.index import Index, sections

MONTH = Month(2024, 3)
NAMES = ("a.md", "b.md", "c.md", "d.md", "e.md")


def write(index: Index) -> None:
    for name in NAMES:
        index.write(name, sections(name, "最後"))


def refuse_large(index: Index, table: str, most: int) -> None:
    """Refuse statements that change more rows of a table than that: they stand for what takes a minute."""
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        connection.execute(
            f"""
            CREATE FUNCTION refuse_large_{table}() RETURNS trigger AS $$
            BEGIN
                ASSERT (SELECT count(*) FROM changed) <= {most}, 'too many rows at once';
                RETURN NULL;
            END;
            $$ LANGUAGE plpgsql
            """  # type: ignore[arg-type]
        )
        connection.execute(
            f"CREATE TRIGGER refuse_large AFTER UPDATE ON {table} REFERENCING NEW TABLE AS changed "  # type: ignore[arg-type]
            f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_large_{table}()"
        )


@pytest.mark.parametrize("other", [{"vectors": "dense"}, {"chunk_tokens": 200}], ids=["kinds", "chunker"])
def test_a_large_month_is_compared_over_several_ticks_and_no_document_twice(
    index: Index, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    write(index)
    with index.open(**other) as pipeline:
        ingest.ingest(pipeline)
    ((chunks,),) = index.rows("SELECT max(chunk_count) FROM documents")
    refuse_large(index, "documents", 1)
    refuse_large(index, "document_chunks", chunks)
    monkeypatch.setattr(index_vectors, "_COMPARED_DOCUMENTS", 1)
    compared: list[object] = []
    original = document_chunks.reopen_incomplete

    def reopen(connection: Any, month: Month, some: list[object], built: Any) -> int:
        compared.extend(some)
        return original(connection, month, some, built)  # type: ignore[arg-type]

    monkeypatch.setattr(document_chunks, "reopen_incomplete", reopen)
    numbers, known = [], []
    with index.open() as pipeline:
        for _ in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(index_vectors, "time", SimpleNamespace(monotonic=partial(next, count())))
                reopen_incomplete(pipeline, deadline=1)
            numbers.append(index.rows("SELECT count(*) FROM documents WHERE indexing_status <> 'completed'")[0][0])
            with pipeline.stores.database.connection() as connection:
                left = built_kinds.months_with_others(
                    connection, [MONTH], pipeline.vectors, pipeline.generation.chunker
                )
            known.append(not left)
    assert (numbers, known) == ([2, 4, 5], [False, False, True])
    assert [(document,) for document in compared] == index.rows("SELECT id FROM documents ORDER BY id")
    index.rows("DROP TRIGGER refuse_large ON documents")
    index.rows("DROP TRIGGER refuse_large ON document_chunks")
    assert index.ingest().months == [MONTH]
    index.assert_consistent()


def test_other_settings_begin_a_comparison_anew(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    write(index)
    index.ingest()
    monkeypatch.setattr(index_vectors, "_COMPARED_DOCUMENTS", 1)
    with monkeypatch.context() as patch, index.open(chunk_tokens=200) as pipeline:
        patch.setattr(index_vectors, "time", SimpleNamespace(monotonic=partial(next, count())))
        reopen_incomplete(pipeline, deadline=1)
    assert index.rows("SELECT compared_to IS NOT NULL FROM built_kinds") == [(True,)]
    with index.open(chunk_tokens=100) as pipeline:
        reopen_incomplete(pipeline)
    assert index.rows("SELECT DISTINCT processing_status FROM documents") == [("processing",)]
    assert index.rows("SELECT compared_to FROM built_kinds") == [(None,)]


def removed(index: Index) -> Callable[[Pipeline], int]:
    index.ingest()
    index.sources.write_text("sources: []\n", "utf-8")
    with index.open() as pipeline:
        deactivate_unconfigured(pipeline, pipeline.sources_file)
    return lambda pipeline: remove_source(pipeline, "docs")


def kept_again(index: Index) -> Callable[[Pipeline], int]:
    index.ingest()
    with index.open(retention_months=1) as pipeline:
        apply_retention(pipeline, Month(2024, 6))
    return lambda pipeline: apply_retention(pipeline).restored


def retried(index: Index) -> Callable[[Pipeline], int]:
    index.embedder.poison = "最後"
    index.ingest()
    index.rows("UPDATE documents SET indexing_status = 'indexing' WHERE source_id = 'docs:a.md'")  # killed before
    return retry_failed_documents


def scanned(index: Index, **columns: str) -> None:
    """Have the items scanned, and their rows changed."""
    with index.open() as pipeline:
        pipeline.prepare()
        scan.scan_source(pipeline, pipeline.source("docs"))
    for column, value in columns.items():
        index.rows(f"UPDATE source_items SET {column} = '{value}'")


def gone(index: Index) -> Callable[[Pipeline], int]:
    scanned(index)
    for name in NAMES:
        index.delete(name)
    return lambda pipeline: scan.scan_source(pipeline, pipeline.source("docs"), confirm_deletions=True).gone


def quarantined(index: Index) -> Callable[[Pipeline], int]:
    scanned(index, state="failed")
    return lambda pipeline: scan.retry_failed_items(pipeline, ["docs"])


def ingested(index: Index) -> Callable[[Pipeline], int]:
    scanned(index, state="ingested", content_hash="0" * 64)
    return lambda pipeline: ingest.reread_items(pipeline, ["docs"], MONTH)


CHANGES: dict[str, tuple[Callable[[Index], Callable[[Pipeline], int]], object, str, str]] = {
    "remove": (removed, sources, "remove", "SELECT count(*) FROM source_items WHERE state <> 'gone'"),
    "restore": (
        kept_again,
        expiring_months,
        "restore_items",
        "SELECT count(*) FROM source_items WHERE state <> 'pending'",
    ),
    "retry": (
        retried,
        documents,
        "retry_failed",
        "SELECT count(DISTINCT document_id) FROM document_chunks WHERE embedding_status = 'failed'",
    ),
    "gone": (gone, source_items, "mark_gone", "SELECT count(*) FROM source_items WHERE state <> 'gone'"),
    "retry items": (
        quarantined,
        source_items,
        "retry_failed",
        "SELECT count(*) FROM source_items WHERE state = 'failed'",
    ),
    "reread": (
        ingested,
        source_items,
        "reread",
        "SELECT count(*) FROM source_items WHERE state = 'ingested' AND content_hash IS NOT NULL",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_killed_between_batches_goes_on(
    index: Index, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    prepare, module, name, left = CHANGES[change]
    write(index)
    act = prepare(index)
    assert index.rows(left) == [(5,)]
    for table in ("source_items", "documents", "document_chunks"):
        refuse_large(index, table, 1)
    monkeypatch.setattr(retention, "_ITEMS", 1)
    monkeypatch.setattr(scan, "_ITEMS", 1)
    for limit in ("_ITEMS", "_DOCUMENTS", "_CHUNKS"):
        monkeypatch.setattr(ingest, limit, 1)
    batch, batches = getattr(module, name), count()

    def killed(*arguments: Any) -> Any:
        if next(batches) == 2:
            raise KeyboardInterrupt
        return batch(*arguments)

    with index.open() as pipeline:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, killed)
            act(pipeline)
        assert index.rows(left) == [(3,)]
        assert act(pipeline) == (2 if change == "retry" else 3), "one of its documents had not failed yet"
        assert index.rows(left) == [(0,)]
        assert act(pipeline) == 0


def test_progress_says_how_much_there_is_in_all(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    write(index)
    monkeypatch.setattr(ingest_documents, "_BATCH", 2)
    said: dict[str, list[tuple[int | None, int | None]]] = {}
    with index.open(batch_size=2) as pipeline:
        pipeline.progress = lambda stage, done=None, total=None: said.setdefault(stage, []).append((done, total))
        ingest.ingest(pipeline)
    ((chunks,),) = index.rows("SELECT count(*) FROM document_chunks")
    assert said["2024-03 documents"] == [(2, 5), (4, 5), (5, 5)]
    assert said["2024-03 documents cut"][-1] == (5, 5)
    embedded = said["2024-03 chunks embedded"]
    assert len(embedded) > 1
    assert embedded[-1] == (chunks, chunks)
    assert {total for _, total in embedded} == {chunks}
