"""The pool: connections that were lost are replaced, not lent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Barrier
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from rag_pipeline.defs.run_month import _unavailable
from rag_pipeline.errors import RagError, StoreUnavailableError
from rag_pipeline.local_servers.processes import wait_until
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


def test_a_process_opens_one_connection_unless_it_asks_for_more(database_url: str) -> None:
    with closing(Database(database_url)) as database, psycopg.connect(database_url, autocommit=True) as other:

        def opened() -> int:
            sessions = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rag-pipeline' AND datname = %s"
            )
            return int(value(other, sessions, (other.info.dbname,)))

        backend(database)
        assert wait_until(lambda: opened() == 1, lambda: True, 60)
        database.keep_open(3)
        assert wait_until(lambda: opened() == 3, lambda: True, 60)
        database.close()
        backend(database)
        assert wait_until(lambda: opened() == 3, lambda: True, 60)


def backend(database: Database) -> int:
    with database.connection() as connection:
        return int(value(connection, "SELECT pg_backend_pid()"))


def test_a_thread_that_asks_for_it_keeps_one_connection_and_gives_it_back(database: Database) -> None:
    in_turn = wait_until(lambda: len({backend(database) for _ in range(8)}) > 1, lambda: True, 60)
    assert in_turn, "the pool, once it has opened some, lends its connections in turn"
    for _ in range(2 * 4):
        with database.one_connection():
            kept = {backend(database) for _ in range(8)}
            with database.one_connection():
                kept.add(backend(database))
            assert len(kept) == 1
            with ThreadPoolExecutor(1) as thread:
                assert thread.submit(backend, database).result() not in kept
            with database.connection() as outer:
                assert {value(outer, "SELECT pg_backend_pid()")} == kept
                assert backend(database) not in kept, "a transaction inside another one"
            with pytest.raises(ZeroDivisionError), database.connection() as connection:
                connection.execute("CREATE TABLE rolled_back ()")
                _ = 1 / 0
            with database.connection() as connection:
                assert value(connection, "SELECT to_regclass('rolled_back')") is None
    together = Barrier(4)

    def use(_: int) -> int:
        with database.connection() as connection:
            together.wait(10)
            return int(value(connection, "SELECT pg_backend_pid()"))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, range(4)))) == 4, "the pool has all of them again"


def test_a_transaction_that_outlives_it_gives_its_connection_back(database_url: str) -> None:
    database = Database(database_url, min_size=1, max_size=1)
    with ExitStack() as outer, database.one_connection():
        outer.enter_context(database.connection())
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(backend, database).result()
    database.close()


@pytest.mark.parametrize("trusted_seconds", [60, 0])
def test_a_kept_connection_that_is_lost_is_replaced(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, trusted_seconds: float
) -> None:
    monkeypatch.setattr("rag_pipeline.stores.postgres.database._TRUSTED_SECONDS", trusted_seconds)
    with database.one_connection(), psycopg.connect(database_url, autocommit=True) as other:
        first = backend(database)
        value(other, _OTHERS)
        if trusted_seconds:
            with pytest.raises(StoreUnavailableError):
                backend(database)
        assert backend(database) != first
        assert backend(database) == backend(database)
        database.close()
        assert backend(database) == backend(database), "another pool"


def test_a_kept_connection_is_guarded_like_any_other(database: Database) -> None:
    checked: list[int] = []
    with database.one_connection():
        kept = backend(database)
        with database.guarded_by(lambda connection: checked.append(connection.info.backend_pid)):
            assert backend(database) == kept
        backend(database)
    assert checked == [kept]


@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)", psycopg.errors.QueryCanceled, "it took too long"),
        ("RAISE lock_not_available", psycopg.errors.LockNotAvailable, "holds the table or the rows"),
        ("RAISE deadlock_detected", psycopg.errors.DeadlockDetected, "waited for this one"),
        ("RAISE serialization_failure", psycopg.errors.SerializationFailure, "changed the same rows"),
    ],
)
def test_a_statement_that_others_end_is_one_line_that_says_what_to_do(
    database: Database, cause: str, kind: type[psycopg.Error], said: str
) -> None:
    statement = f"DO $$ BEGIN {cause}; END $$" if cause.startswith("RAISE") else cause
    with pytest.raises(RagError) as raised, database.connection(), database.connection() as connection:
        connection.execute(statement)  # type: ignore[arg-type]
    text = str(raised.value)
    assert text.startswith(f"PostgreSQL at {database.where}: ")
    assert said in text
    assert text.endswith("; run again, nothing was lost")
    assert "\n" not in text
    assert isinstance(raised.value, kind), "whoever can repeat it does"


WHAT_TO_DO = {
    "53100": "free space on its disk",
    "53200": "give it more memory, or stop what else uses it",
    "53300": "end other connections to it, or raise its max_connections",
    "53000": "give it what it lacks",
    "25006": "make it writable for this user",
    "42501": "make it writable for this user",
}


def test_what_refuses_to_work_is_said_with_what_to_do_by_both_drivers(database: Database) -> None:
    for state, cure in WHAT_TO_DO.items():
        refuse = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
        with pytest.raises(StoreUnavailableError) as raised, database.connection() as connection:
            connection.execute(refuse)  # type: ignore[arg-type]
        said = f"; {cure} and run again, nothing was lost"
        assert str(raised.value).startswith(f"PostgreSQL at {database.where}: no ")
        assert str(raised.value).endswith(said)
        refused = Exception("no")
        refused.pgcode = state  # type: ignore[attr-defined]
        of_dagster = _unavailable(OperationalError("INSERT", {}, refused), "a run")
        assert str(of_dagster).endswith(f" recorded a run: no{said}")


def test_a_server_that_has_no_connection_left_says_so(database_url: str) -> None:
    """While connecting there is no SQLSTATE, only words."""
    address = urlsplit(database_url)
    role = address.path.removeprefix("/")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'word' CONNECTION LIMIT 0")  # type: ignore[arg-type]
        url = address._replace(netloc=f"{role}:word@{address.hostname}:{address.port}").geturl()
        try:
            with pytest.raises(StoreUnavailableError) as raised, Database(url).connection():
                pass
        finally:
            connection.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]
    cure = "end other connections to it, or raise its max_connections"
    assert str(raised.value).endswith(
        f'too many connections for role "{role}"; {cure} and run again, nothing was lost'
    )
