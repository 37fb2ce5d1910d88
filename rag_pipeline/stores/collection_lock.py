"""Who may write to a collection."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

if TYPE_CHECKING:
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.postgres.database import Database

_WAIT_SECONDS = 300


def sole_writer(database: Database, milvus: Milvus, collection: str) -> AbstractContextManager[None]:
    """Write to a collection alone: Milvus Lite is not safe with several writers of one, a real server is."""
    if not milvus.is_lite:
        return nullcontext()
    return advisory_lock(database, f"collection {collection}", _WAIT_SECONDS)
