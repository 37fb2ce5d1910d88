"""A search reads no more rows for what hidden documents have than for what nobody has: its time does not tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline.search.matching_documents import has_filters_of_documents
from rag_pipeline.stores.filters import NO_FILTERS, Filters
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Connection, Database, values
from rag_pipeline.stores.postgres.search_queries import best_by_words, hydrate, matching_documents
from rag_pipeline_tests.support.databases import temporary_database

MONTHS = list(Month(2024, 1).until(Month(2024, 3)))

# 300 documents are visible, of some sources, and `hidden` times as many are not. Each pair of values is of the same 15
# visible documents; the first of a pair is of all hidden ones too.
FILL = """
INSERT INTO sources (source_type, name, connection_config)
SELECT 'filesystem', kind || n, '{}' FROM unnest(ARRAY['visible', 'hidden']) AS kind, generate_series(0, %(sources)s - 1) n;
INSERT INTO source_items (source_type, source_id, source, name, locator, document_created_at, seen_fingerprint,
    seen_recipe)
SELECT 'filesystem', n || '/' || visible, s.id, '', '', '2024-01-05Z'::timestamptz + n %% 3 * interval '30 days', '', ''
FROM (SELECT n / (%(hidden)s + 1) AS n, n %% (%(hidden)s + 1) AS visible FROM generate_series(0, 300 * (%(hidden)s + 1) - 1) n) i
JOIN sources s ON s.name = CASE visible WHEN 0 THEN 'visible' ELSE 'hidden' END || n %% %(sources)s;
INSERT INTO documents (id, title, content, source_type, source_id, source, created_at, processing_status,
    indexing_status, language, category, author, tags)
SELECT document_id, 't', repeat('c', 500), source_type, source_id, source, document_created_at, 'completed', 'completed',
    (ARRAY['en', 'de', 'ja'])[value], (ARRAY['blue', 'green', 'other'])[value], (ARRAY['Ann', 'Bob', 'Zoe'])[value],
    ARRAY[(ARRAY['red', 'pink', 'misc'])[value]]
FROM (
    SELECT *, CASE WHEN split_part(source_id, '/', 2) <> '0' OR split_part(source_id, '/', 1)::int %% 20 = 0 THEN 1
        WHEN split_part(source_id, '/', 1)::int %% 20 = 1 THEN 2 ELSE 3 END AS value
    FROM source_items
) i;
INSERT INTO document_chunks (document_id, document_created_at, source, content, position, content_hash, live,
    content_words)
SELECT id, created_at, source, repeat('c', 200), 0, repeat('0', 64), true,
    to_tsvector('japanese', 'all ' || CASE category WHEN 'blue' THEN 'secret' WHEN 'green' THEN 'public' ELSE '' END)
FROM documents;
"""
DISTRIBUTIONS = {
    "as many hidden": {"hidden": 1, "sources": 1},
    "ten times as many hidden": {"hidden": 10, "sources": 1},
    "of many sources": {"hidden": 1, "sources": 10},
}


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def index(request: pytest.FixtureRequest, server_endpoints: Endpoints) -> Iterator[Connection]:
    """A session that reports how each statement was executed."""
    with temporary_database(server_endpoints.postgres_url, "hidden") as url:
        database = Database(url, min_size=1)
        try:
            schema.migrate(database)
            schema.ensure_months(database, MONTHS)
            with psycopg.ClientCursor(database.connect()) as cursor, cursor.connection:
                cursor.execute(FILL, DISTRIBUTIONS[request.param])
                cursor.execute("ANALYZE documents, document_chunks, source_items")
            with database.connection() as connection:
                connection.execute("LOAD 'auto_explain'")
                for setting in ("log_min_duration = 0", "log_analyze = on", "log_format = json"):
                    connection.execute(f"SET auto_explain.{setting}")
                connection.execute("SET client_min_messages = log")
                yield connection
        finally:
            database.close()


def touched(plan: dict[str, Any]) -> float:
    """Rows that the scans of a plan read, whether a condition removed them later or not."""
    own = 0.0
    if "Scan" in plan["Node Type"]:
        names = "Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"
        own = sum(plan.get(name, 0) for name in names) * plan["Actual Loops"]
    return own + sum(touched(part) for part in plan.get("Plans", ()))


class Executed:
    """The rows that the statements of a session have read, while the context lasts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.rows = 0.0

    def __enter__(self) -> Executed:
        self._connection.execute("SELECT")
        self._connection.add_notice_handler(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.execute("SELECT")  # PostgreSQL reports a statement when the next one takes its place.
        self._connection.remove_notice_handler(self._read)

    def _read(self, notice: psycopg.errors.Diagnostic) -> None:
        self.rows += touched(json.loads((notice.message_primary or "").partition("plan:")[2])["Plan"])


FILTERS: dict[str, tuple[Filters, Filters]] = {
    "category": (Filters(category="blue"), Filters(category="green")),
    "author": (Filters(author="Ann"), Filters(author="Bob")),
    "tags": (Filters(tags=("red",)), Filters(tags=("pink",))),
    "category and language": (Filters(category="blue", language="en"), Filters(category="green", language="de")),
    "category and author": (Filters(category="blue", author="Ann"), Filters(category="green", author="Bob")),
    "all": (
        Filters(category="blue", author="Ann", tags=("red",), language="en", source_type="filesystem"),
        Filters(category="green", author="Bob", tags=("pink",), language="de", source_type="filesystem"),
    ),
    "language": (Filters(language="en"), Filters(language="de")),
    "type": (Filters(source_type="filesystem"), Filters(source_type="filesystem")),
    "none": (NO_FILTERS, NO_FILTERS),
}
NAMING = [name for name, (filters, _) in FILTERS.items() if has_filters_of_documents(filters)]


def visible(connection: Connection) -> list[UUID]:
    return values(connection, "SELECT id FROM sources WHERE name ~ 'visible'")


def test_the_rows_that_are_read_are_counted(index: Connection) -> None:
    with Executed(index) as executed:
        found = index.execute("SELECT FROM document_chunks WHERE content_words @@ 'all'::tsquery").fetchall()
    assert executed.rows >= len(found) >= 600


@pytest.mark.parametrize("name", NAMING)
def test_documents_are_named_by_filters_without_reading_hidden_ones(index: Connection, name: str) -> None:
    of = visible(index)
    read = []
    for filters in FILTERS[name]:
        with Executed(index) as executed:
            found = matching_documents(index, filters, of, MONTHS, 100)
        assert len(found) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
    assert len(matching_documents(index, FILTERS[name][0], None, MONTHS, 10_000)) >= 315


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_words_are_found_without_reading_hidden_chunks(index: Connection, name: str, named: bool) -> None:
    of = visible(index)
    read = []
    for word, filters in zip(("secret", "public"), FILTERS[name], strict=True):
        documents = matching_documents(index, filters, of, MONTHS, 100) if named and name in NAMING else None
        with Executed(index) as executed:
            assert len(best_by_words(index, {word: 1.0}, filters, MONTHS, 100, of, documents)) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
    assert len(best_by_words(index, {"secret": 1.0}, FILTERS[name][0], MONTHS, 10_000)) >= 315


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in {"type", "none"}])
def test_hits_are_looked_up_without_reading_hidden_documents(index: Connection, name: str) -> None:
    of = visible(index)
    candidates = dict(
        index.execute(
            "SELECT c.id, d.id FROM document_chunks c JOIN documents d ON d.id = document_id "
            "WHERE d.source = ANY(%s) AND category <> 'other'",
            (of,),
        ).fetchall()
    )
    assert len(candidates) == 30
    read = []
    for filters in FILTERS[name]:
        with Executed(index) as executed:
            assert len(hydrate(index, candidates, filters, of)) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
