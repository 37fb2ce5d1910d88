"""The lock on a collection that its writers hold."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.postgres.database import Database

_WAIT_SECONDS = 300


@contextmanager
def sole_writer(database: Database, milvus: Milvus, collection: str) -> Iterator[None]:
    """Hold a collection's write lock while writing to it.

    Milvus Lite is not safe with several writers to one collection; a real server is, and there nothing is locked.
    Raises `BusyError` if another process holds the lock for five minutes, and `LockLostError` if the lock of the
    caller's month is lost.
    """
    with advisory_lock(database, f"collection {collection}", _WAIT_SECONDS) if milvus.is_lite else nullcontext():
        # Milvus cannot be fenced. What is written after this is what the month's next run writes too.
        database.check_guards()
        yield
