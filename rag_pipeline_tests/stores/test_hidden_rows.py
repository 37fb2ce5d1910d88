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
from rag_pipeline.stores.filters import NO_FILTERS, Filters
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Connection, Database, value
from rag_pipeline.stores.postgres.search_queries import best_by_words, hydrate, matching_documents
from rag_pipeline_tests.support.databases import temporary_database

MONTH = Month(2024, 3)

# Of 600 documents, the odd ones are hidden. Each pair of values is of the same 15 visible documents; the first of a pair
# is of all hidden ones too.
FILL = """
INSERT INTO sources (source_type, name, connection_config)
VALUES ('filesystem', 'visible', '{}'), ('filesystem', 'hidden', '{}');
INSERT INTO source_items (source_type, source_id, source, name, locator, document_created_at, seen_fingerprint,
    seen_recipe)
SELECT 'filesystem', n, s.id, '', '', '2024-03-05Z', '', ''
FROM generate_series(1, 600) n JOIN sources s ON s.name = CASE WHEN n % 2 = 0 THEN 'visible' ELSE 'hidden' END;
INSERT INTO documents (id, title, content, source_type, source_id, source, created_at, processing_status,
    indexing_status, language, category, author, tags)
SELECT document_id, 't', repeat('c', 500), source_type, source_id, source, document_created_at, 'completed', 'completed',
    CASE WHEN n % 40 = 0 THEN 'en' WHEN n % 40 = 2 THEN 'de' WHEN n % 2 = 1 THEN 'en' ELSE 'ja' END,
    CASE WHEN n % 40 = 0 THEN 'blue' WHEN n % 40 = 2 THEN 'green' WHEN n % 2 = 1 THEN 'blue' ELSE 'other' END,
    CASE WHEN n % 40 = 0 THEN 'Ann' WHEN n % 40 = 2 THEN 'Bob' WHEN n % 2 = 1 THEN 'Ann' ELSE 'Zoe' END,
    CASE WHEN n % 40 = 0 THEN '{red}' WHEN n % 40 = 2 THEN '{pink}' WHEN n % 2 = 1 THEN '{red}' ELSE '{misc}' END::text[]
FROM (SELECT *, source_id::int AS n FROM source_items) i;
INSERT INTO document_chunks (document_id, document_created_at, source, content, position, content_hash, live,
    content_words)
SELECT d.id, d.created_at, d.source, repeat('c', 200), 0, repeat('0', 64), true, to_tsvector('japanese', 'all ' ||
    CASE WHEN n % 40 = 0 THEN 'secret' WHEN n % 40 = 2 THEN 'public' WHEN n % 2 = 1 THEN 'secret' ELSE '' END)
FROM (SELECT *, source_id::int AS n FROM documents) d;
"""


@pytest.fixture(scope="module")
def index(server_endpoints: Endpoints) -> Iterator[Connection]:
    """A session that reports how each statement was executed."""
    with temporary_database(server_endpoints.postgres_url, "hidden") as url:
        database = Database(url, min_size=1)
        try:
            schema.migrate(database)
            schema.ensure_months(database, [MONTH])
            with database.connection() as connection:
                connection.execute(FILL)
                connection.execute("ANALYZE documents, document_chunks, source_items")
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


VALUES = {
    "category": (Filters(category="blue"), Filters(category="green")),
    "author": (Filters(author="Ann"), Filters(author="Bob")),
    "tags": (Filters(tags=("red",)), Filters(tags=("pink",))),
    "language": (Filters(language="en"), Filters(language="de")),
}


OF_DOCUMENTS = ("category", "author", "tags")


def visible(connection: Connection) -> list[UUID]:
    return [value(connection, "SELECT id FROM sources WHERE name = 'visible'")]


def test_the_rows_that_are_read_are_counted(index: Connection) -> None:
    with Executed(index) as executed:
        index.execute("SELECT FROM document_chunks WHERE content_words @@ 'all'::tsquery").fetchall()
    assert executed.rows >= 600


@pytest.mark.parametrize("name", OF_DOCUMENTS)
def test_documents_are_named_by_filters_without_reading_hidden_ones(index: Connection, name: str) -> None:
    of = visible(index)
    read = []
    for filters in VALUES[name]:
        with Executed(index) as executed:
            found = matching_documents(index, filters, of, [MONTH], 100)
        assert len(found) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
    assert len(matching_documents(index, VALUES[name][0], None, [MONTH], 1000)) == 315


@pytest.mark.parametrize("name", ["no filters", *VALUES])
def test_words_are_found_without_reading_hidden_chunks(index: Connection, name: str) -> None:
    of = visible(index)
    read = []
    for word, filters in zip(("secret", "public"), VALUES.get(name, (NO_FILTERS, NO_FILTERS)), strict=True):
        documents = matching_documents(index, filters, of, [MONTH], 100) if name in OF_DOCUMENTS else None
        with Executed(index) as executed:
            assert len(best_by_words(index, {word: 1.0}, filters, [MONTH], 100, of, documents)) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
    assert len(best_by_words(index, {"secret": 1.0}, NO_FILTERS, [MONTH], 1000)) == 315


@pytest.mark.parametrize("name", VALUES)
def test_hits_are_looked_up_without_reading_hidden_documents(index: Connection, name: str) -> None:
    of = visible(index)
    candidates = dict(
        index.execute(
            "SELECT c.id, d.id FROM document_chunks c JOIN documents d ON d.id = document_id "
            "WHERE d.source = %s AND category <> 'other'",
            of,
        ).fetchall()
    )
    read = []
    for filters in VALUES[name]:
        with Executed(index) as executed:
            assert len(hydrate(index, candidates, filters, of)) == 15
        read.append(executed.rows)
    assert read[0] == read[1]
