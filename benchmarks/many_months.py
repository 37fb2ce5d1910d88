"""What many months cost in PostgreSQL, whatever is in them: python -m benchmarks.many_months [--months 60 240 960]

A partition of each table for each month, with one document and one chunk: planning and execution of the queries that every
search and every run makes, creating a month, and exchanging two generations (locks and seconds). What grows here grows with
the months and not with the chunks. Compare only figures of the same call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

from benchmarks.harness import benchmark_workspace
from rag_pipeline.months import Month
from rag_pipeline.stores.filters import NO_FILTERS
from rag_pipeline.stores.postgres import (
    document_chunks,
    documents,
    generation_tables,
    schema,
    search_queries,
    term_statistics,
)
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline.stores.postgres.database import Connection, Database, values
from rag_pipeline.stores.postgres.expected_schema import expected_schema
from rag_pipeline_tests.support.databases import temporary_database

_FIRST = Month(1940, 1)
_TIMES = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, nargs="+", default=[60, 240, 960])
    arguments = parser.parse_args()
    with benchmark_workspace() as (workspace, _):
        for count in arguments.months:
            with temporary_database(workspace.endpoints.postgres_url, "months") as url:
                database = Database(url)
                try:
                    _measure(database, count)
                finally:
                    database.close()


def _measure(database: Database, count: int) -> None:
    schema.migrate(database)
    months = [_FIRST]
    while len(months) < count:
        months.append(months[-1].next())
    begun = time.perf_counter()
    for start in range(0, count, 24):
        schema.ensure_months(database, months[start : start + 24])
    each = (time.perf_counter() - begun) / count
    chunks = _fill(database, months)
    print(f"\n{count} months: {each * 1000:.0f} ms to create one")
    newest = months[-1]
    with database.connection() as connection:
        sources = values(connection, "SELECT id FROM sources")

    words = ["索引", *(f"語{number}" for number in range(7))]

    def hydrate(connection: Connection) -> object:
        return search_queries.hydrate(connection, chunks, NO_FILTERS)

    def fulltext(connection: Connection) -> object:
        ranked = search_queries.best_by_words(connection, {"索引": 1.0}, NO_FILTERS, months[-24:], 10)
        return search_queries.hydrate(connection, {chunk.id: chunk.document_id for chunk in ranked}, NO_FILTERS)

    for name, query in {
        "the candidates of a search, 50 from as many months": hydrate,
        "a full-text search of 24 months": fulltext,
        "the months of 8 words": lambda c: term_statistics.months_with(c, words),
        "8 words counted": lambda c: term_statistics.document_frequency(c, words),
        "8 words counted among the sources that may be seen": (
            lambda c: term_statistics.document_frequency(c, words, sources)
        ),
        "the months with work": documents.months_with_work,
        "a batch of chunks to embed": lambda c: document_chunks.claim(c, newest, ("dense",), 64, None),
        "a month's expected vectors": lambda c: document_chunks.expected_vectors(c, newest),
    }.items():
        print(f"    {name}: {_milliseconds(database, query):.1f} ms")
    _exchange(database, months)


def _fill(database: Database, months: list[Month]) -> dict[UUID, UUID]:
    """One live chunk a month. Returns 50 of them, spread over the months, with their documents."""
    found: dict[UUID, UUID] = {}
    with database.connection() as connection:
        source = uuid4()
        connection.execute(
            "INSERT INTO sources (id, source_type, name, connection_config) VALUES (%s, 'filesystem', 'docs', '{}')",
            (source,),
        )
        for number, month in enumerate(months):
            document, chunk, at = uuid4(), uuid4(), month.start + timedelta(days=3)
            connection.execute(
                "INSERT INTO source_items (source_type, source_id, source, name, document_id, document_created_at, "
                "locator, seen_fingerprint, seen_recipe, state) "
                "VALUES ('filesystem', %s, %s, 'n', %s, %s, '', '', '', 'ingested')",
                (f"docs:{number}", source, document, at),
            )
            connection.execute(
                "INSERT INTO documents (id, created_at, title, content, source_type, source_id, processing_status, "
                "indexing_status, source) VALUES (%s, %s, 't', 'c', 'filesystem', %s, 'completed', 'completed', %s)",
                (document, at, f"docs:{number}", source),
            )
            connection.execute(
                "INSERT INTO document_chunks (id, document_id, document_created_at, content, position, content_hash, live, "
                "embedding_status, source, content_words) VALUES (%s, %s, %s, 'c', 0, %s, true, 'completed', %s, '索引:1 語0:2 語1:3 語2:4 語3:5 語4:6 語5:7 語6:8')",
                (chunk, document, at, "0" * 64, source),
            )
            for term in ("", "索引", *(f"語{n}" for n in range(7))):
                connection.execute(
                    "INSERT INTO term_statistics (term, month, source, chunks) VALUES (%s, %s, %s, 1)",
                    (term, month.start.date(), source),
                )
            if number % max(1, len(months) // 50) == 0:
                found[chunk] = document
    with database.connect() as connection:
        connection.autocommit = True
        connection.execute("ANALYZE")
    return found


def _milliseconds(database: Database, query: Callable[[Connection], object]) -> float:
    times = []
    for _ in range(_TIMES):
        with database.connection() as connection:
            begun = time.perf_counter()
            query(connection)
            times.append(time.perf_counter() - begun)
            connection.rollback()
    return statistics.median(times) * 1000


def _exchange(database: Database, months: list[Month]) -> None:
    made = {"dimension": 8, "multi_dimension": 8, "settings": {}, "own_aliases": True, "has_sources": True}
    made["milvus_prefix"] = ""
    with database.connection() as connection:
        live = table.add(connection, "live", embedder="a", collections="a", **made)  # type: ignore[arg-type]
        new = table.add(connection, "building", embedder="b", collections="b", **made)  # type: ignore[arg-type]
        assert live is not None
        assert new is not None
        tables = generation_tables.create(connection, new, expected_schema(database, spellings=False))
    beside = Database(database._url, first_schema=tables)
    try:
        for start in range(0, len(months), 24):
            schema.ensure_months(beside, months[start : start + 24])
    finally:
        beside.close()
    with database.connection() as connection:
        begun = time.perf_counter()
        generation_tables.exchange(connection, live, new)
        locks = connection.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()").fetchone()
        table.exchange(connection, new.id)
        seconds = time.perf_counter() - begun
    assert locks is not None
    print(f"    the exchange of two generations: {seconds:.2f} s, {locks[0]} locks")


if __name__ == "__main__":
    main()
