"""`retiring_months`: the retirement of a month in PostgreSQL, step by step. Each step may be killed and done again.

A month's row is written first and removed last, after its partitions have left Milvus too: what it names has to be
finished, whatever the settings say by then. The caller holds the month's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import value, values
from rag_pipeline.stores.postgres.month_bounds import CHUNKS_OF_MONTH, DOCUMENTS_OF_MONTH, in_month, month_bounds
from rag_pipeline.stores.postgres.statuses import (
    ItemState,
    one_of,
)

if TYPE_CHECKING:
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection

_LOCK_TIMEOUT_MS = 500


def begun(connection: Connection) -> list[Month]:
    """The months whose retirement is under way, in order."""
    months = values(connection, "SELECT to_char(month, 'YYYY-MM') FROM retiring_months ORDER BY month")
    return [Month.parse(month) for month in months]


def begin(connection: Connection, month: Month) -> None:
    """Write down that the month is being retired."""
    connection.execute(
        "INSERT INTO retiring_months (month) VALUES (%s) ON CONFLICT DO NOTHING", (month.start.date(),)
    )


def retire_items(connection: Connection, month: Month, limit: int) -> int:
    """Mark up to `limit` of the month's items as retired, and forget what was ingested of them; how many."""
    return connection.execute(
        f"""
        UPDATE source_items SET state = {ItemState.RETIRED.sql}, error_message = NULL, failures = 0, retry_at = NULL,
            ingested_fingerprint = NULL, ingested_recipe = NULL, content_hash = NULL, ingested_at = NULL
        WHERE (source_type, source_id) IN (
            SELECT source_type, source_id FROM source_items
            WHERE {in_month("document_created_at")}
                AND (state NOT IN {one_of(ItemState.RETIRED, ItemState.GONE)}
                    OR state = {ItemState.RETIRED.sql} AND (ingested_fingerprint IS NOT NULL OR content_hash IS NOT NULL))
            LIMIT %(limit)s
        )
        """,
        {**month_bounds(month), "limit": limit},
    ).rowcount


def delete_documents(connection: Connection, month: Month, limit: int) -> int:
    """Delete up to `limit` of the month's documents with their chunks; how many documents.

    Their vectors go with the month's partitions, so what the trigger puts into the outbox is taken out again.
    """
    documents = values(
        connection,
        f"SELECT d.id FROM documents d WHERE {DOCUMENTS_OF_MONTH} LIMIT %(limit)s",
        {**month_bounds(month), "limit": limit},
    )
    # One statement, so that the trigger runs once; the cascade would run it once a document.
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
    """Remove the month's rows from the outbox: their vectors go with the month's partitions."""
    connection.execute(
        f"DELETE FROM vector_deletions WHERE {in_month('document_created_at')}",
        month_bounds(month),
    )


def drop_partitions(connection: Connection, month: Month) -> None:
    """Drop the month's empty partitions, and its term statistics.

    Only when they are empty: PostgreSQL looks for rows that reference a partition before it detaches it, and would
    read all chunks of all months for that, while everybody waits. Raises `psycopg.errors.LockNotAvailable` where
    another query holds the tables: try again.
    """
    # Shorter than `deadlock_timeout` (1 s): should the two of us wait for each other, it is this transaction that
    # gives up, not the other one that is killed.
    connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    connection.execute("LOCK TABLE documents, document_chunks IN ACCESS EXCLUSIVE MODE")
    for parent in ("document_chunks", "documents"):
        partition = month.postgres_partition(parent)
        attached = value(
            connection,
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = %s::regclass AND inhrelid = to_regclass(%s))",
            (parent, partition),
        )
        if attached:
            connection.execute(f"ALTER TABLE {parent} DETACH PARTITION {partition}")
            connection.execute(f"DROP TABLE {partition}")
    connection.execute("DELETE FROM term_statistics WHERE month = %s", (month.start.date(),))


def finish(connection: Connection, month: Month) -> None:
    """The month has left both stores."""
    clear_outbox(connection, month)
    connection.execute("DELETE FROM retiring_months WHERE month = %s", (month.start.date(),))


def restore_items(connection: Connection, horizon: datetime | None) -> int:
    """Make pending again the retired items that are not older than `horizon` (None: all of them); how many.

    Months whose retirement is under way are left out: it has to come to its end first.
    """
    return connection.execute(
        f"""
        UPDATE source_items i SET state = {ItemState.PENDING.sql}
        WHERE state = {ItemState.RETIRED.sql} AND (%(horizon)s::timestamptz IS NULL OR document_created_at >= %(horizon)s)
            AND NOT EXISTS (
                SELECT FROM retiring_months r
                WHERE r.month = date_trunc('month', i.document_created_at AT TIME ZONE 'UTC')::date)
        """,
        {"horizon": horizon},
    ).rowcount


def any_to_restore(connection: Connection, horizon: datetime | None) -> bool:
    """Whether `restore_items` would find something, now or once the retirements under way are finished."""
    return value(
        connection,
        f"""
        SELECT EXISTS (
            SELECT FROM source_items
            WHERE state = {ItemState.RETIRED.sql} AND (%(horizon)s::timestamptz IS NULL OR document_created_at >= %(horizon)s))
        """,
        {"horizon": horizon},
    )
