"""Deletions: the outbox is drained into Milvus. A row leaves it only after Milvus has confirmed.

At least once, and idempotent: the keys of a deleted chunk are never used again, so deleting them twice is harmless.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.partitions import existing_collections
from rag_pipeline.stores.postgres import vector_deletions
from rag_pipeline.stores.vector_ids import row_ids

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_BATCH = 500


def drain_deletions(pipeline: Pipeline, deadline: float | None = None) -> int:
    """Delete from Milvus what was deleted in PostgreSQL; how many chunks.

    Stops at a deadline (`time.monotonic()`). Milvus is only asked where something waits. Raises
    `StoreUnavailableError` where it is down: the outbox keeps what it has not confirmed.
    """
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    drained = 0
    with pipeline.tally.stage("deletions"):
        names: list[tuple[VectorKind, str]] | None = None
        while deadline is None or time.monotonic() < deadline:
            # One transaction a batch: the rows stay locked, so that two consumers do not do the same work.
            with database.connection() as connection:
                batch = vector_deletions.next_batch(connection, _BATCH)
                if not batch:
                    break
                if names is None:
                    # Every generation that exists: a deletion has to reach all of them.
                    names = existing_collections(milvus, pipeline.settings.milvus_prefix)
                for kind, name in names:
                    ids = [
                        key
                        for deletion in batch
                        for key in row_ids(kind, deletion.chunk_id, deletion.multi_vector_count)
                    ]
                    with sole_writer(database, milvus, name):
                        rows.delete(milvus, name, ids)
                vector_deletions.confirm(connection, batch)
            drained += len(batch)
            pipeline.progress("deletions", drained)
    pipeline.tally.vectors_deleted += drained
    return drained
