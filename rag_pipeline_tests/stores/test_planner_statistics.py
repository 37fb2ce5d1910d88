"""A month that is filled at once: the planner's statistics are refreshed before its chunks are claimed."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import consistency_queries, document_chunks, documents, schema
from rag_pipeline.stores.postgres.database import Database

MONTH = Month(2024, 3)
DOCUMENTS, CHUNKS = 3_000, 9_000

FILL = """
INSERT INTO sources (source_type, name, connection_config) VALUES ('filesystem', 's', '{}');
INSERT INTO source_items (source_type, source_id, source, name, locator, document_created_at, seen_fingerprint,
    seen_recipe)
SELECT 'filesystem', 's:' || n, s.id, '', '', '2024-03-05Z', '', '' FROM sources s, generate_series(1, %(documents)s) n;
INSERT INTO documents (id, title, content, source_type, source_id, created_at, processing_status, indexing_status)
SELECT document_id, 't', repeat('c', 500), source_type, source_id, document_created_at, 'completed', 'indexing'
FROM source_items;
INSERT INTO document_chunks (document_id, document_created_at, content, position, content_hash)
SELECT d.id, d.created_at, repeat('c', 200), n, repeat('0', 64) FROM documents d, generate_series(1, %(each)s) n;
"""
COMPLETE = """
UPDATE documents SET chunk_count = 3, indexing_status = 'completed';
UPDATE document_chunks SET embedding_status = 'completed', live = true, dense_vector_id = id, stored_position = position,
    stored_language = 'ja';
"""
ANALYZED = """
SELECT c.relname, c.reltuples::int, s.analyze_count FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relname IN ('documents_2024_03', 'document_chunks_2024_03') ORDER BY 1
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, min_size=1)
    schema.migrate(database)
    schema.ensure_months(database, [Month(2024, 2), MONTH])
    with database.connection() as connection:
        for table in ("documents", "document_chunks"):
            connection.execute(f"ALTER TABLE {MONTH.postgres_partition(table)} SET (autovacuum_enabled = false)")
    yield database
    database.close()


def filled(database: Database) -> None:
    with psycopg.ClientCursor(database.connect()) as cursor, cursor.connection:
        cursor.execute(FILL, {"documents": DOCUMENTS, "each": CHUNKS // DOCUMENTS})


def analyzed(database: Database) -> list[tuple]:
    with database.connection() as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        return connection.execute(ANALYZED).fetchall()


def test_a_month_that_was_filled_at_once_is_analyzed_once(database: Database) -> None:
    schema.analyze_if_grown(database, MONTH)
    assert [count for *_, count in analyzed(database)] == [0, 0], "an empty month needs no statistics"
    filled(database)
    for _ in range(2):
        schema.analyze_if_grown(database, MONTH)
    counted = [(name, rows) for name, rows, _ in analyzed(database)]
    assert counted == [("document_chunks_2024_03", CHUNKS), ("documents_2024_03", DOCUMENTS)]
    assert [count for *_, count in analyzed(database)] == [1, 1]


def test_claiming_a_batch_reads_the_chunks_once_and_not_for_each_document(database: Database) -> None:
    filled(database)
    schema.analyze_if_grown(database, MONTH)
    with database.connection() as connection:
        before = entries_read(connection)
        assert len(document_chunks.claim(connection, MONTH, ("dense", "sparse", "multi"), 64, None)) == 64
        assert entries_read(connection) - before < 10 * (CHUNKS + DOCUMENTS)
        assert not any("2024_02" in name for name in locked(connection)), "the other months are left alone"


@pytest.mark.parametrize("kinds", [("dense",), ("dense", "sparse", "multi")])
def test_claiming_the_next_batches_reads_no_more_than_these(database: Database, kinds: tuple[str, ...]) -> None:
    filled(database)
    schema.analyze_if_grown(database, MONTH)
    after = None
    for _ in range(40):  # PostgreSQL can plan a query once for all parameters after some
        with database.connection() as connection:
            before = entries_read(connection)
            batch = document_chunks.claim(connection, MONTH, kinds, 64, after)
            assert len(batch) == 64
            assert entries_read(connection) - before < 20 * 64
        after = batch[-1]


def test_the_next_documents_to_chunk_are_read_without_the_others(database: Database) -> None:
    filled(database)
    with database.connection() as connection:
        connection.execute("UPDATE documents SET processing_status = 'processing'")
    schema.analyze_if_grown(database, MONTH)
    after = None
    for _ in range(40):
        with database.connection() as connection:
            before = entries_read(connection)
            batch = documents.to_chunk(connection, MONTH, 64, 10**9, after)
            assert len(batch) == 64
            assert entries_read(connection) - before < 20 * 64
        after = batch[-1].id


def test_the_checks_after_a_run_read_a_month_once_and_not_for_each_document(database: Database) -> None:
    filled(database)
    schema.analyze_if_grown(database, MONTH)
    with database.connection() as connection:
        connection.execute(COMPLETE)
    schema.analyze_if_rewritten(database, MONTH, CHUNKS // 20)
    assert [count for *_, count in analyzed(database)] == [1, 1], "a small run leaves the statistics alone"
    schema.analyze_if_rewritten(database, MONTH, CHUNKS)
    assert [count for *_, count in analyzed(database)] == [2, 2]
    for mismatch in consistency_queries.MISMATCHES:
        with database.connection() as connection:
            consistency_queries.mismatched(connection, mismatch, MONTH, ("dense",))
            read, locks = entries_read(connection), locked(connection)
        assert read < 10 * (CHUNKS + DOCUMENTS), mismatch.problem
        assert not any("2024_02" in name for name in locks), mismatch.problem


def test_a_partition_that_somebody_locks_is_left_out(database: Database) -> None:
    filled(database)
    with database.connection() as connection:
        connection.execute("LOCK TABLE document_chunks_2024_03 IN SHARE UPDATE EXCLUSIVE MODE")
        schema.analyze_if_rewritten(database, MONTH, CHUNKS)
        schema.analyze_if_grown(database, MONTH)
    assert [count for *_, count in analyzed(database)] == [0, 1]


def locked(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute("SELECT DISTINCT relation::regclass::text FROM pg_locks WHERE locktype = 'relation'")
    return [name for (name,) in rows]


def entries_read(connection: psycopg.Connection) -> int:
    """Return how many rows and index entries this transaction has read of the month's partitions."""
    row = connection.execute(
        "SELECT sum(pg_stat_get_xact_tuples_returned(oid))::bigint FROM pg_class WHERE relname LIKE '%2024\\_03%'"
    ).fetchone()
    assert row is not None
    return row[0]
