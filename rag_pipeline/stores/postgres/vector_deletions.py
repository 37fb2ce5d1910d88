"""`vector_deletions`: the outbox of chunks whose vectors have to be deleted from Milvus.

A trigger fills it in the transaction that deletes the chunks. What is written to Milvus after that transaction is added
by whoever wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.stores.postgres.database import objects, one, value
from rag_pipeline.stores.postgres.month_bounds import CHUNKS_OF_MONTH, in_month, month_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class Deletion:
    """A chunk that was deleted from PostgreSQL."""

    id: int
    chunk_id: UUID
    document_created_at: datetime
    multi_vector_count: int


def next_batch(connection: Connection, limit: int) -> list[Deletion]:
    """Return the oldest pending deletions."""
    return objects(
        connection,
        Deletion,
        """
        SELECT id, chunk_id, document_created_at, multi_vector_count FROM vector_deletions ORDER BY id LIMIT %s
        """,
        (limit,),
    )


def confirm(connection: Connection, deletions: Sequence[Deletion]) -> None:
    """Remove from the outbox what Milvus has confirmed."""
    connection.execute("DELETE FROM vector_deletions WHERE id = ANY(%s)", ([d.id for d in deletions],))


def add_gone(connection: Connection, month: Month, chunks: Sequence[tuple[UUID, int]]) -> int:
    """Add those of these chunks whose rows are gone, given with their numbers of multi-vectors; return their number.

    Their rows can have been deleted, and their deletions confirmed, before their vectors were written.
    """
    return connection.execute(
        f"""
        INSERT INTO vector_deletions (chunk_id, document_created_at, multi_vector_count)
        SELECT n.id, %(start)s, n.count FROM unnest(%(ids)s::uuid[], %(counts)s::int[]) AS n(id, count)
        WHERE NOT EXISTS (SELECT FROM document_chunks c WHERE c.id = n.id AND {CHUNKS_OF_MONTH})
        """,
        {"ids": [chunk for chunk, _ in chunks], "counts": [count for _, count in chunks], **month_bounds(month)},
    ).rowcount


def of_month(connection: Connection, month: Month, limit: int, after: UUID | None = None) -> list[Deletion]:
    """Return up to `limit` pending deletions of a month, each chunk once, by the chunk's id, that follow `after`."""
    return objects(
        connection,
        Deletion,
        f"""
        SELECT DISTINCT ON (chunk_id) id, chunk_id, document_created_at, multi_vector_count FROM vector_deletions
        WHERE {in_month("document_created_at")} {"AND chunk_id > %(after)s" if after else ""}
        ORDER BY chunk_id, multi_vector_count DESC LIMIT %(limit)s
        """,
        {**month_bounds(month), "limit": limit, "after": after},
        prepare=False,  # so that it begins where the last batch ended: see `document_chunks.claim`
    )


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
