"""Retention: months more than `RAG_RETENTION_MONTHS` before the current month expire and are dropped from both stores.

A month expires under its lock, in steps that can be killed and repeated: it is recorded in `expiring_months`; its items
are marked, so that no scan brings them back; its documents are deleted and its partitions dropped in PostgreSQL; its
partition is dropped in each Milvus collection; only then is the record removed. What was recorded is finished by the
next call, whatever the setting says by then. Sources are never touched: if more months are kept again, or all of them,
their items become pending and are ingested again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import BusyError
from rag_pipeline.months import Month
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus.partitions import drop_partition, existing_collections
from rag_pipeline.stores.postgres import expiring_months, generations, schema, source_items, sources
from rag_pipeline.stores.postgres.batches import in_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import Settings
    from rag_pipeline.stores.postgres.database import Connection

_LOCK_WAIT_SECONDS = 30
_ITEMS = 5000
_DOCUMENTS = 200
_DROP_TRIES = 20
_DROP_PAUSE_SECONDS = 0.5


@dataclass
class RetentionResult:
    """What one call of `apply_retention` did."""

    expired: list[Month] = field(default_factory=list)
    restored: int = 0
    """Items that are pending again."""
    busy: list[str] = field(default_factory=list)
    """Months that another run is processing, one line each: the next call handles them."""


def oldest_kept_month(settings: Settings, now: Month | None = None) -> Month | None:
    """Return the oldest month that is kept; None if all are."""
    if settings.retention_months is None:
        return None
    return (now or Month.now()).earlier(settings.retention_months)


def months_to_expire(pipeline: Pipeline, now: Month | None = None) -> list[Month]:
    """Return the months to expire, oldest first: those older than the retention, and those half expired."""
    oldest_kept = oldest_kept_month(pipeline.settings, now)
    with pipeline.stores.database.connection() as connection:
        begun = expiring_months.in_progress(connection)
    old = [
        m for m in schema.existing_months(pipeline.stores.database) if oldest_kept is not None and m < oldest_kept
    ]
    return sorted({*begun, *old})


def retention_due(pipeline: Pipeline, now: Month | None = None) -> bool:
    """Whether `apply_retention` would find something to do."""
    if months_to_expire(pipeline, now):
        return True
    oldest_kept = oldest_kept_month(pipeline.settings, now)
    with pipeline.stores.database.connection() as connection:
        return expiring_months.any_to_restore(connection, oldest_kept.start if oldest_kept else None)


def apply_retention(pipeline: Pipeline, now: Month | None = None) -> RetentionResult:
    """Expire the months that are too old, and make pending again what had expired and is to be kept.

    `now` is the current month. Raises `StoreUnavailableError` if a store is down; the next call resumes.
    """
    result = RetentionResult()
    for month in months_to_expire(pipeline, now):
        try:
            with pipeline.month_lock(month, _LOCK_WAIT_SECONDS):
                _expire(pipeline, month)
        except BusyError as error:
            result.busy.append(f"{month} is older than the retention but could not be expired yet: {error}")
        else:
            result.expired.append(month)
    oldest_kept = oldest_kept_month(pipeline.settings, now)
    since = oldest_kept.start if oldest_kept else None
    result.restored = in_batches(
        pipeline.stores.database,
        lambda connection: expiring_months.restore_items(connection, since, _ITEMS),
        "items of months that are kept again",
    )
    return result


def _expire(pipeline: Pipeline, month: Month) -> None:
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    with database.connection() as connection:
        expiring_months.begin(connection, month)
    _in_batches(pipeline, month, "gone items", lambda *of: len(source_items.delete_gone(*of)), _DOCUMENTS)
    _in_batches(pipeline, month, "items", expiring_months.expire_items, _ITEMS)
    _in_batches(pipeline, month, "documents", expiring_months.delete_documents, _DOCUMENTS)
    _drop_in_postgres(pipeline, month)
    # After the live one, from which they copy.
    for other in _other_generations(pipeline):
        with other:
            # Nothing builds it meanwhile.
            other.generations_stay = True
            with other.month_lock(month, _LOCK_WAIT_SECONDS):
                _in_batches(other, month, "documents", expiring_months.delete_documents, _DOCUMENTS)
                _drop_in_postgres(other, month)
    for _, collection in existing_collections(milvus, pipeline.settings.milvus_prefix):
        with sole_writer(database, milvus, collection):
            drop_partition(milvus, collection, month)
    with database.connection() as connection:
        expiring_months.finish(connection, month)
        sources.refresh_statistics(connection)


def _other_generations(pipeline: Pipeline) -> list[Pipeline]:
    with pipeline.stores.database.connection() as connection:
        rows = [row for row in generations.all_of_them(connection) if row.state in ("building", "previous")]
    return [pipeline.beside(row) for row in rows]


def _in_batches(
    pipeline: Pipeline, month: Month, what: str, step: Callable[[Connection, Month, int], int], limit: int
) -> None:
    in_batches(
        pipeline.stores.database,
        lambda connection: step(connection, month, limit),
        f"{month}: {what} to expire",
        partial(pipeline.progress, f"{month} expire {what}"),
    )


def _drop_in_postgres(pipeline: Pipeline, month: Month) -> None:
    """Wait for a moment without queries, briefly each time: others would have to wait behind us."""
    for _ in range(_DROP_TRIES):
        try:
            with pipeline.stores.database.connection() as connection:
                expiring_months.drop_partitions(connection, month)
        except psycopg.errors.LockNotAvailable:
            time.sleep(_DROP_PAUSE_SECONDS)
        else:
            return
    raise BusyError("long queries hold documents and document_chunks in PostgreSQL; wait for them to end")
