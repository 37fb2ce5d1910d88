"""`vector_deletions`: the outbox of chunks whose vectors have to be deleted from Milvus, filled by a trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.stores.postgres.database import objects, one, value
from rag_pipeline.stores.postgres.month_bounds import in_month, month_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class Deletion:
    """A chunk that was deleted from PostgreSQL."""

    id: int
    chunk_id: UUID
    multi_vector_count: int


def next_batch(connection: Connection, limit: int) -> list[Deletion]:
    """Return the oldest pending deletions, locked for this transaction, without those another consumer has locked."""
    return objects(
        connection,
        Deletion,
        """
        SELECT id, chunk_id, multi_vector_count FROM vector_deletions
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (limit,),
    )


def confirm(connection: Connection, deletions: Sequence[Deletion]) -> None:
    """Remove from the outbox what Milvus has confirmed."""
    connection.execute("DELETE FROM vector_deletions WHERE id = ANY(%s)", ([d.id for d in deletions],))


def pending(connection: Connection, month: Month) -> tuple[int, datetime | None]:
    """Return (number of pending deletions of a month, when the oldest was made)."""
    outbox = one(
        connection,
        f"""
        SELECT count(*) AS deletions, min(created_at) AS since FROM vector_deletions
        WHERE {in_month("document_created_at")}
        """,
        month_bounds(month),
    )
    return outbox.deletions, outbox.since


def backlog(connection: Connection) -> int:
    """Return the number of pending deletions."""
    return value(connection, "SELECT count(*) FROM vector_deletions")
