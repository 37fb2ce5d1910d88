"""Advisory locks: one run per month, one scan per source.

They end with their session, so a killed run leaves none.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import BusyError
from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rag_pipeline.stores.postgres.database import Connection, Database

_POLL_SECONDS = 0.5


@contextmanager
def advisory_lock(
    database: Database, name: str, wait_seconds: float, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock of this name in a separate session.

    If another process holds it, calls `on_wait` once and waits up to `wait_seconds`, then raises a `BusyError`.
    """
    connection = database.connect()
    connection.autocommit = True
    try:
        deadline = time.monotonic() + wait_seconds
        waited = False
        while not _try_lock(connection, name):
            if time.monotonic() >= deadline:
                raise BusyError(f"{name} is being processed by another run: wait for it to finish, then run again")
            if on_wait and not waited:
                on_wait()
                waited = True
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            _unlock(connection, name)
    finally:
        connection.close()


def _try_lock(connection: Connection, name: str) -> bool:
    return value(connection, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,))


def _unlock(connection: Connection, name: str) -> None:
    """Free the lock before the session ends: the server notices a closed connection only some time later."""
    # A connection that is lost took its lock with it.
    with suppress(psycopg.OperationalError):
        connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))
