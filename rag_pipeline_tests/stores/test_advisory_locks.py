"""Advisory locks: held by one at a time, free as soon as they are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from rag_pipeline.errors import BusyError, LockLostError, StoreUnavailableError
from rag_pipeline.stores.postgres.advisory_locks import Lease, advisory_lock, fenced_lock, held, leases
from rag_pipeline.stores.postgres.database import Database, value
from rag_pipeline_tests.support.databases import end_idle_lock_sessions


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


HOLDERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"


def test_a_session_serves_again_unless_it_ended_or_something_failed(database: Database) -> None:
    pids = []
    with database.connection() as connection:
        for failure in (None, None, ZeroDivisionError, None):
            with suppress(ZeroDivisionError), advisory_lock(database, "a", 0):
                pids.append(value(connection, HOLDERS))
                if failure:
                    raise failure
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pids[-1],))
        with advisory_lock(database, "a", 0):
            pids.append(value(connection, HOLDERS))
    first, again, failed, after_failure, after_its_end = pids
    assert first == again == failed
    assert len({failed, after_failure, after_its_end}) == 3


MONTH = "month 2024-01"


def test_a_holder_whose_session_ended_writes_nothing_more(database: Database) -> None:
    with fenced_lock(database, MONTH, 0):
        with database.connection() as connection:
            connection.execute("CREATE TABLE written (by text)")
        end_idle_lock_sessions(database)
        with pytest.raises(LockLostError, match=MONTH), database.connection() as connection:
            connection.execute("INSERT INTO written VALUES ('first')")
        with pytest.raises(LockLostError, match=MONTH):
            database.check_guards()
    with database.connection() as connection:
        assert connection.execute("SELECT * FROM written").fetchall() == []


def test_the_next_holder_waits_for_a_transaction_that_is_under_way(database: Database, database_url: str) -> None:
    other = Database(database_url, min_size=1)
    with fenced_lock(database, MONTH, 0):
        with database.connection() as connection:
            connection.execute("CREATE TABLE written (by text)")
            end_idle_lock_sessions(database)
            with pytest.raises(BusyError), fenced_lock(other, MONTH, 0):
                pass
        with fenced_lock(other, MONTH, 0):
            with pytest.raises(LockLostError), database.connection():
                pass
            with other.connection() as connection:
                connection.execute("INSERT INTO written VALUES ('second')")
    other.close()


def test_transactions_are_free_again_after_the_lock(database: Database) -> None:
    with pytest.raises(LockLostError), fenced_lock(database, MONTH, 0):
        end_idle_lock_sessions(database)
        database.check_guards()
    with fenced_lock(database, MONTH, 0), database.connection() as connection:
        connection.execute("SELECT 1")
    database.check_guards()


def test_a_fenced_lock_leaves_nothing_locked(database: Database) -> None:
    for _ in range(3):
        with fenced_lock(database, MONTH, 0), database.connection() as connection:
            assert value(connection, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 3, (
                "the month, its owner, and this transaction's fence"
            )
        with database.connection() as connection:
            assert value(connection, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_locks_that_are_held_are_seen_from_elsewhere(database: Database, database_url: str) -> None:
    with advisory_lock(database, "run a", 0), database.connection() as connection:
        assert held(connection, ["run a", "run b"]) == {"run a"}
        assert held(connection, []) == set()


def _worker(database_url: str, lease: Lease) -> Database:
    worker = Database(database_url, min_size=1)
    worker.application_name = lease.sessions
    return worker


def test_a_worker_writes_only_while_it_has_its_lease(database: Database, database_url: str) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE written (by text)")
    with leases(database) as granted:
        first, second = granted.grant("a"), granted.grant("b")
        lost, other = _worker(database_url, first), _worker(database_url, second)
        with lost.guarded_by(first.guard), other.guarded_by(second.guard):
            for worker in (lost, other):
                with worker.connection() as connection:
                    connection.execute("INSERT INTO written VALUES ('early')")
            granted.revoke(first)
            with pytest.raises(StoreUnavailableError), lost.connection() as connection:
                connection.execute("INSERT INTO written VALUES ('late')")  # Its sessions were ended.
            with pytest.raises(LockLostError, match="a: its lease was taken away"), lost.connection():
                pass
            with other.connection() as connection:
                connection.execute("INSERT INTO written VALUES ('late')")
            granted.revoke_all()
            with pytest.raises(StoreUnavailableError), other.connection() as connection:
                connection.execute("INSERT INTO written VALUES ('late')")
            with pytest.raises(LockLostError, match="b: its lease"), other.connection():
                pass
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM written").fetchall() == [(3,)]
    for worker in (lost, other):
        worker.close()


def test_a_transaction_that_is_under_way_ends_with_the_lease(database: Database, database_url: str) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE written (by text)")
    with leases(database) as granted:
        lease = granted.grant("a")
        worker = _worker(database_url, lease)
        with (
            worker.guarded_by(lease.guard),
            pytest.raises(StoreUnavailableError),
            advisory_lock(worker, "collection", 0),
            worker.connection() as connection,
        ):
            connection.execute("INSERT INTO written VALUES ('frozen')")
            granted.revoke(lease)
            with advisory_lock(database, "collection", 5):  # What it held elsewhere is free.
                pass
        worker.close()
    with database.connection() as connection:
        assert connection.execute("SELECT * FROM written").fetchall() == []


def test_leases_end_with_the_session_of_their_run(database: Database, database_url: str) -> None:
    with leases(database) as granted:
        lease = granted.grant("a")
        worker = _worker(database_url, lease)
        end_idle_lock_sessions(database)
        with worker.guarded_by(lease.guard), pytest.raises(LockLostError), worker.connection():
            pass
        worker.close()
