"""The pool: connections that were lost are replaced, not lent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.stores.postgres.database import Database, value

_OTHERS = """
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, min_size=4, max_size=4)
    yield database
    database.close()


def test_after_one_error_no_other_lost_connection_is_lent(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when PostgreSQL ends all sessions because one of its processes was killed: compensations have to work."""
    monkeypatch.setattr("rag_pipeline.stores.postgres.database._TRUSTED_SECONDS", 60)
    together = Barrier(4)

    def use(_: int) -> int:
        with database.connection() as connection:
            together.wait()
            return int(value(connection, "SELECT pg_backend_pid()"))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, range(4)))) == 4
        with psycopg.connect(database_url, autocommit=True) as other:
            assert value(other, _OTHERS) >= 4
        with pytest.raises(StoreUnavailableError), database.connection() as connection:
            connection.execute("SELECT 1")
        assert len(set(pool.map(use, range(4)))) == 4


def test_threads_that_begin_together_share_one_pool(database: Database) -> None:
    together = Barrier(8)

    def use(_: int) -> object:
        together.wait()
        with database.connection():
            return database._pool

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
