"""The lock on a collection that its writers hold."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.advisory_locks import advisory_lock, fenced_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.postgres.database import Database

_WAIT_SECONDS = 300
_REBUILD_WAIT_SECONDS = 3600


@contextmanager
def writing(database: Database, milvus: Milvus, collection: str) -> Iterator[None]:
    """Hold a collection's lock while writing to it.

    Milvus Lite is not safe with several writers to one collection, so there they write one after the other. A real
    server is, and there they share the lock: they only keep out `no_writers`.
    Raises `BusyError` if another process holds the lock for five minutes, and `LockLostError` if the lock of the
    caller's month is lost.
    """
    with advisory_lock(database, _name(collection), _WAIT_SECONDS, shared=not milvus.is_lite):
        # Milvus cannot be fenced. What is written after this is what the month's next run writes too.
        database.check_guards()
        yield


@contextmanager
def no_writers(database: Database, collection: str) -> Iterator[None]:
    """Keep writers away from a collection, for as long as `Database.check_guards` raises no `LockLostError`.

    Raises `BusyError` if writers leave no gap for an hour.
    """
    with fenced_lock(database, _name(collection), _REBUILD_WAIT_SECONDS):
        yield


def _name(collection: str) -> str:
    return f"collection {collection}"
