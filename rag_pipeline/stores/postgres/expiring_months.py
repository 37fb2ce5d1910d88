"""`expiring_months`: the expiry of a month in PostgreSQL, step by step. Each step can be killed and repeated.

A month's row is written first and removed last, after its partitions have left Milvus too. A month with a row has
to be finished, whatever the retention is by then. The caller holds the month's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import value, values
from rag_pipeline.stores.postgres.month_bounds import (
    CHUNKS_OF_MONTH,
    DOCUMENTS_OF_MONTH,
    ITEMS_OF_MONTH,
    in_month,
    month_bounds,
)
from rag_pipeline.stores.postgres.source_items import change_some
from rag_pipeline.stores.postgres.statuses import ItemState, one_of

if TYPE_CHECKING:
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection

_LOCK_TIMEOUT_MS = 500


def in_progress(connection: Connection) -> list[Month]:
    """Return the months that are being expired, in order."""
    months = values(connection, "SELECT to_char(month, 'YYYY-MM') FROM expiring_months ORDER BY month")
    return [Month.parse(month) for month in months]


def begin(connection: Connection, month: Month) -> None:
    """Record that the month is being expired."""
    connection.execute(
        "INSERT INTO expiring_months (month) VALUES (%s) ON CONFLICT DO NOTHING", (month.start.date(),)
    )


def expire_items(connection: Connection, month: Month, limit: int) -> int:
    """Mark up to `limit` of the month's items as expired and forget what was ingested; return their number."""
    to_expire = f"""{ITEMS_OF_MONTH}
        AND (i.state NOT IN {one_of(ItemState.EXPIRED, ItemState.GONE)}
            OR i.state = {ItemState.EXPIRED.sql}
                AND (i.ingested_fingerprint IS NOT NULL OR i.content_hash IS NOT NULL))"""
    return change_some(
        connection,
        f"""state = {ItemState.EXPIRED.sql}, error_message = NULL, failures = 0, retry_at = NULL,
            ingested_fingerprint = NULL, ingested_recipe = NULL, content_hash = NULL, ingested_at = NULL""",
        to_expire,
        {**month_bounds(month), "limit": limit},
    )


def delete_documents(connection: Connection, month: Month, limit: int) -> int:
    """Delete up to `limit` of the month's documents with their chunks; return the number of documents.

    Their vectors are dropped with the month's partitions, so what the trigger adds to the outbox is removed.
    """
    documents = values(
        connection,
        f"SELECT d.id FROM documents d WHERE {DOCUMENTS_OF_MONTH} LIMIT %(limit)s",
        {**month_bounds(month), "limit": limit},
    )
    # One statement, so that the trigger runs once; the cascade would run it once per document.
    connection.execute(
        f"DELETE FROM document_chunks c WHERE c.document_id = ANY(%(documents)s) AND {CHUNKS_OF_MONTH}",
        {"documents": documents, **month_bounds(month)},
    )
    connection.execute(
        f"DELETE FROM documents d WHERE d.id = ANY(%(documents)s) AND {DOCUMENTS_OF_MONTH}",
        {"documents": documents, **month_bounds(month)},
    )
    clear_outbox(connection, month)
    return len(documents)


def clear_outbox(connection: Connection, month: Month) -> None:
    """Remove the month's rows from the outbox: their vectors are dropped with the month's partitions."""
    connection.execute(
        f"DELETE FROM vector_deletions WHERE {in_month('document_created_at')}",
        month_bounds(month),
    )


def drop_partitions(connection: Connection, month: Month) -> None:
    """Drop the month's empty partitions, and its term statistics.

    They have to be empty: before PostgreSQL detaches a partition it looks for rows that reference it, and would
    read all chunks of all months while every other query waits. Raises `psycopg.errors.LockNotAvailable` if another
    query holds the tables: retry.
    """
    # Shorter than `deadlock_timeout` (1 s): if this transaction and another wait for each other, this one times
    # out before the other is killed.
    connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    connection.execute("LOCK TABLE documents, document_chunks IN ACCESS EXCLUSIVE MODE")
    for parent in ("document_chunks", "documents"):
        partition = month.postgres_partition(parent)
        attached = value(
            connection,
            """
            SELECT EXISTS (
                SELECT FROM pg_inherits WHERE inhparent = %s::regclass AND inhrelid = to_regclass(%s))
            """,
            (parent, partition),
        )
        if attached:
            connection.execute(f"ALTER TABLE {parent} DETACH PARTITION {partition}")
            connection.execute(f"DROP TABLE {partition}")
    connection.execute("DELETE FROM term_statistics WHERE month = %s", (month.start.date(),))


def finish(connection: Connection, month: Month) -> None:
    """Record that the month has left both stores."""
    clear_outbox(connection, month)
    connection.execute(
        f"DELETE FROM generation_changes WHERE {in_month('document_created_at')}", month_bounds(month)
    )
    connection.execute("DELETE FROM expiring_months WHERE month = %s", (month.start.date(),))


def restore_items(connection: Connection, oldest_kept: datetime | None, limit: int) -> int:
    """Make up to `limit` expired items pending; return their number.

    Those that are not older than `oldest_kept` (None: all of them). Months that are being expired are left out until
    they are finished.
    """
    to_restore = f"""i.state = {ItemState.EXPIRED.sql}
        AND (%(oldest_kept)s::timestamptz IS NULL OR i.document_created_at >= %(oldest_kept)s)
        AND NOT EXISTS (
            SELECT FROM expiring_months r
            WHERE r.month = date_trunc('month', i.document_created_at AT TIME ZONE 'UTC')::date)"""
    return change_some(
        connection,
        f"state = {ItemState.PENDING.sql}",
        to_restore,
        {"oldest_kept": oldest_kept, "limit": limit},
    )


def any_to_restore(connection: Connection, oldest_kept: datetime | None) -> bool:
    """Whether `restore_items` finds something, now or once the months in progress are finished."""
    return value(
        connection,
        f"""
        SELECT EXISTS (
            SELECT FROM source_items
            WHERE state = {ItemState.EXPIRED.sql}
                AND (%(oldest_kept)s::timestamptz IS NULL OR document_created_at >= %(oldest_kept)s))
        """,
        {"oldest_kept": oldest_kept},
    )
