"""Items: whatever changes several locks them in one order, and what a scan decided meanwhile stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import consistency_repairs, expiring_months, source_items, sources
from rag_pipeline.stores.postgres.database import Connection, Database, value
from rag_pipeline_tests.support.databases import temporary_database, wait_for_blocked_session

MONTH = Month(2024, 1)
NAMES = ("b", "c", "d", "e", "a")
"""By their dates and locators, and as they are stored: not in the order in which items are locked."""


@pytest.fixture
def url(server_endpoints: Endpoints, prepared_database: str) -> Iterator[str]:
    with temporary_database(server_endpoints.postgres_url, template=prepared_database) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url, min_size=1)
    yield database
    database.close()


def add_items(database: Database, state: str) -> None:
    with database.connection() as connection:
        source: UUID = value(
            connection,
            "INSERT INTO sources (source_type, name, connection_config, is_active) "
            "VALUES ('filesystem', 'docs', '{}', false) RETURNING id",
        )
        connection.execute(
            """
            INSERT INTO source_items (source_type, source_id, source, name, locator, state, document_created_at,
                seen_fingerprint, seen_recipe)
            SELECT 'filesystem', name, %s, name, number, %s, %s + number * interval '1 day', 'seen', 'recipe'
            FROM unnest(%s::text[]) WITH ORDINALITY AS item(name, number) ORDER BY number
            """,
            (source, state, MONTH.start, list(NAMES)),
        )


CHANGES: dict[str, tuple[str, Callable[[Connection], int]]] = {
    "expire": ("pending", lambda connection: expiring_months.expire_items(connection, MONTH, 100)),
    "restore": ("expired", lambda connection: expiring_months.restore_items(connection, None, 100)),
    "fetch again": ("ingested", lambda connection: consistency_repairs.refetch_items(connection, MONTH)),
    "remove": ("ingested", lambda connection: sources.remove(connection, "docs", 100)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_items_are_locked_in_order_so_that_two_never_wait_for_each_other(
    database: Database, url: str, change: str
) -> None:
    before, work = CHANGES[change]
    add_items(database, before)

    def run() -> int:
        with database.connection() as connection:
            return work(connection)

    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT FROM source_items WHERE source_id = 'a' FOR UPDATE")
        changed = pool.submit(run)
        try:
            wait_for_blocked_session(url)
            locked = other.execute("SELECT source_id FROM source_items FOR UPDATE SKIP LOCKED").fetchall()
        finally:
            other.rollback()
        assert changed.result() == len(NAMES)
    assert sorted(locked) == [("a",), ("b",), ("c",), ("d",), ("e",)], "nothing is held behind the first"


@pytest.mark.parametrize(
    ("meanwhile", "seen", "afterwards"),
    [
        ("gone", "changed", "gone"),
        ("expired", "changed", "expired"),
        ("pending", "changed", "pending"),
        # Changed back: what was ingested before the run is there again, but no longer what its document holds.
        ("ingested", "changed", "pending"),
        ("gone", "seen", "gone"),
        ("pending", "seen", "ingested"),
    ],
)
def test_a_run_does_not_undo_what_a_scan_has_decided_meanwhile(
    database: Database, meanwhile: str, seen: str, afterwards: str
) -> None:
    add_items(database, "pending")
    with database.connection() as connection:
        item, *_ = source_items.pending(connection, MONTH, 10)
        connection.execute(
            "UPDATE source_items SET state = %s, seen_fingerprint = %s WHERE source_id = %s",
            (meanwhile, seen, item.source_id),
        )
        source_items.record(connection, [source_items.Outcome(item, "hash")])
        state = value(connection, "SELECT state FROM source_items WHERE source_id = %s", (item.source_id,))
    assert state == afterwards
