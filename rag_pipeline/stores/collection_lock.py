"""The lock on a collection that its writers hold."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

if TYPE_CHECKING:
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.postgres.database import Database

_WAIT_SECONDS = 300


def sole_writer(database: Database, milvus: Milvus, collection: str) -> AbstractContextManager[None]:
    """Hold a collection's write lock.

    Milvus Lite is not safe with several writers to one collection; a real server is, and there this does nothing.
    Raises `BusyError` if another process holds the lock for five minutes.
    """
    if not milvus.is_lite:
        return nullcontext()
    return advisory_lock(database, f"collection {collection}", _WAIT_SECONDS)
