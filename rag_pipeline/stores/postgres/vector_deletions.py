"""`vector_deletions`: the outbox of chunks whose vectors have to leave Milvus. A trigger on the chunks fills it."""

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
    """A chunk that is gone from PostgreSQL."""

    id: int
    chunk_id: UUID
    multi_vector_count: int


def next_batch(connection: Connection, limit: int) -> list[Deletion]:
    """The oldest deletions, locked for this transaction; those another consumer is at work on are left out."""
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
    """Milvus has confirmed these: they leave the outbox."""
    connection.execute("DELETE FROM vector_deletions WHERE id = ANY(%s)", ([d.id for d in deletions],))


def waiting(connection: Connection, month: Month) -> tuple[int, datetime | None]:
    """(how many deletions of a month's chunks have not arrived in Milvus, since when the oldest waits)."""
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
    """How many deletions have not arrived in Milvus."""
    return value(connection, "SELECT count(*) FROM vector_deletions")
