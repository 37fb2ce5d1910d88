"""Advisory locks: one run a month, one scan a source. They end with their session, so a killed run leaves none."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    """Hold the lock of this name in a session of its own.

    Waits up to `wait_seconds` where another process holds it, after calling `on_wait` once; then a `BusyError`.
    """
    connection = database.connect()
    connection.autocommit = True
    try:
        deadline = time.monotonic() + wait_seconds
        told = False
        while not _try_lock(connection, name):
            if time.monotonic() >= deadline:
                raise BusyError(f"{name} is being worked on by another run: wait for it to end, then run again")
            if on_wait and not told:
                on_wait()
                told = True
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        connection.close()


def _try_lock(connection: Connection, name: str) -> bool:
    return value(connection, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,))
