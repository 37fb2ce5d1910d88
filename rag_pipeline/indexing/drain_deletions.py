"""Deletions: the outbox `vector_deletions` is drained into Milvus. A row leaves it only after Milvus has confirmed.

At least once, and idempotent: the ids of a deleted chunk are never reused, so deleting them twice is harmless.
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
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_BATCH = 500


def drain_deletions(pipeline: Pipeline, deadline: float | None = None) -> int:
    """Delete from Milvus the vectors of chunks that were deleted in PostgreSQL. Return the number of chunks.

    Stops at `deadline` (on the clock of `time.monotonic`). Milvus is only contacted when a deletion is pending. Raises
    `StoreUnavailableError` if it is down: the outbox keeps what was not confirmed.
    """
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    drained = 0
    with pipeline.stopwatch.stage("deletions"):
        names: list[tuple[VectorKind, str]] | None = None
        while deadline is None or time.monotonic() < deadline:
            # One transaction per batch: its rows stay locked, so that two consumers do not do the same work.
            with database.connection() as connection:
                batch = vector_deletions.next_batch(connection, _BATCH)
                if not batch:
                    break
                if names is None:
                    # Every generation that exists: a deletion has to reach all of them.
                    names = existing_collections(milvus, pipeline.settings.milvus_prefix)
                for kind, name in names:
                    ids = [
                        row_id
                        for deletion in batch
                        for row_id in row_ids(kind, deletion.chunk_id, deletion.multi_vector_count)
                    ]
                    with sole_writer(database, milvus, name):
                        rows.delete(milvus, name, ids)
                vector_deletions.confirm(connection, batch)
            drained += len(batch)
            pipeline.progress("deletions", drained)
    return drained


def deletion_counts(drained: int) -> Counts:
    """What `drain_deletions` did, under the name that `IngestStats` has for it."""
    return {"vectors_deleted": drained}
