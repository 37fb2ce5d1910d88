"""Deletions: the outbox `vector_deletions` is drained into Milvus. A row leaves it only after Milvus has confirmed.

At least once, and idempotent: the ids of a deleted chunk are never reused, so deleting them twice is harmless.
If it was somebody else who deleted the documents, their items become pending: what a source still holds is ingested
again.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rag_pipeline.errors import BusyError, StoreUnavailableError
from rag_pipeline.months import Month
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.partitions import existing_collections
from rag_pipeline.stores.postgres import consistency_repairs, vector_deletions
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline.stores.vector_ids import row_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Database
    from rag_pipeline.stores.postgres.vector_deletions import Deletion

_BATCH = 500
_WAIT_SECONDS = 60


def drain_deletions(
    pipeline: Pipeline, deadline: float | None = None, *, touched: TouchedChunks | None = None
) -> int:
    """Delete from Milvus the vectors of chunks that were deleted in PostgreSQL. Return the number of chunks.

    Stops at `deadline` (on the clock of `time.monotonic`). Milvus is only contacted when a deletion is pending. Raises
    `StoreUnavailableError` if it is down: the outbox keeps what was not confirmed. One process drains at a time;
    another one waits for it, and leaves the rest to it if it does not end in time. Adds to `touched` what was deleted
    of its month.
    """
    database = pipeline.stores.database
    drained = 0
    months: set[Month] = set()
    with pipeline.stopwatch.stage("deletions"), ExitStack() as held:
        with database.connection() as connection:
            if not vector_deletions.backlog(connection):
                return 0
        if not _is_ours(database, held, deadline):
            return 0
        try:
            while deadline is None or time.monotonic() < deadline:
                with database.connection() as connection:
                    batch = vector_deletions.next_batch(connection, _BATCH)
                if not batch:
                    break
                # Every generation that exists: a deletion has to reach all of them. Listed after the batch was read: what
                # is begun later has none of these chunks, or its writer finds that they are gone and adds them again.
                collections = existing_collections(pipeline.stores.milvus, pipeline.settings.milvus_prefix)
                # Outside a transaction: an open one would keep PostgreSQL from vacuuming while Milvus works.
                _delete(pipeline, collections, batch)
                with database.connection() as connection:
                    vector_deletions.confirm(connection, batch)
                by_month = [(Month.of(deletion.document_created_at), deletion) for deletion in batch]
                months.update(month for month, _ in by_month)
                if touched is not None:
                    touched.add_deleted(
                        (one.chunk_id, one.multi_vector_count) for month, one in by_month if month == touched.month
                    )
                drained += len(batch)
                pipeline.progress("deletions", drained)
        finally:
            _refetch(pipeline, months)
    return drained


def _is_ours(database: Database, held: ExitStack, deadline: float | None) -> bool:
    """Take the lock of the outbox; False if another process holds it for too long."""
    wait = _WAIT_SECONDS if deadline is None else max(deadline - time.monotonic(), 0)
    try:
        held.enter_context(advisory_lock(database, "the outbox of deletions", wait))
    except BusyError:
        return False
    return True


def _delete(pipeline: Pipeline, collections: Sequence[tuple[VectorKind, str]], batch: Sequence[Deletion]) -> None:
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    for kind, name in collections:
        ids = [
            row_id
            for deletion in batch
            for row_id in row_ids(kind, deletion.chunk_id, deletion.multi_vector_count)
        ]
        try:
            with sole_writer(database, milvus, name):
                rows.delete(milvus, name, ids)
        except StoreUnavailableError:
            # A generation that is being dropped takes its rows along.
            if (kind, name) in existing_collections(milvus, pipeline.settings.milvus_prefix):
                raise


def _refetch(pipeline: Pipeline, months: set[Month]) -> None:
    """Make the items pending whose documents somebody deleted; the write path deletes an item with its document."""
    for month in sorted(months) if pipeline.is_live else ():
        with pipeline.stores.database.connection() as connection:
            consistency_repairs.refetch_items(connection, month)


def deletion_counts(drained: int) -> Counts:
    """What `drain_deletions` did, under the name that `IngestStats` has for it."""
    return {"vectors_deleted": drained}
