"""Advisory locks: held by one at a time, free as soon as they are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from rag_pipeline.errors import BusyError
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline.stores.postgres.database import Database, value


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, min_size=1)
    yield database
    database.close()


def test_only_one_holds_a_lock(database: Database) -> None:
    with (
        advisory_lock(database, "month 2024-01", 0),
        pytest.raises(BusyError, match="month 2024-01"),
        advisory_lock(database, "month 2024-01", 0),
    ):
        pass


def test_a_lock_is_free_as_soon_as_it_is_left(database: Database) -> None:
    # The server ends a session some time after the client has closed it; the lock must not wait for that.
    name = "month 2024-01"
    key = "hashtextextended(%s, 0)"
    with closing(database.connect()) as other:
        for _ in range(500):
            with advisory_lock(database, name, 0):
                assert not value(other, f"SELECT pg_try_advisory_lock({key})", (name,))
            assert value(other, f"SELECT pg_try_advisory_lock({key})", (name,))
            assert value(other, f"SELECT pg_advisory_unlock({key})", (name,))


def test_a_lock_is_free_after_an_error(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), advisory_lock(database, "month 2024-01", 0):
        _ = 1 / 0
    with advisory_lock(database, "month 2024-01", 0):
        pass


def test_the_end_of_the_session_hides_no_error(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), advisory_lock(database, "month 2024-01", 0):
        with database.connection() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        _ = 1 / 0
