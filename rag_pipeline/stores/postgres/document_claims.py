"""Which documents each of several workers has that cut a month's: the rows that its transaction has locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import named, objects, value
from rag_pipeline.stores.postgres.documents import DocumentText
from rag_pipeline.stores.postgres.month_bounds import in_month, month_bounds
from rag_pipeline.stores.postgres.statuses import TO_CHUNK, one_of

if TYPE_CHECKING:
    from uuid import UUID

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection

_TO_CHUNK = f"FROM documents WHERE processing_status IN {one_of(*TO_CHUNK)} AND {in_month('created_at')}"


def to_chunk_up_to(connection: Connection, month: Month, limit: int | None = None) -> int:
    """Return how many documents of a month are to be chunked; counts no further than `limit`, if one is given."""
    counted: int = value(
        connection,
        f"SELECT count(*) FROM (SELECT {_TO_CHUNK} LIMIT %(limit)s) counted",
        {"limit": limit, **month_bounds(month)},
    )
    return counted


def lock_to_chunk(
    connection: Connection, month: Month, limit: int, max_chars: int, after: UUID | None = None
) -> list[DocumentText]:
    """Lock the next documents to chunk that nobody else has locked, until the transaction ends, and return them.

    By id, at most `limit`, about `max_chars` characters in all.
    """
    locked = named(
        connection,
        f"""
        SELECT id, char_count {_TO_CHUNK} {"AND id > %(after)s" if after else ""}
        ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"limit": limit, "after": after, **month_bounds(month)},
    )
    ids: list[UUID] = []
    chars = 0
    for row in locked:
        if ids and chars >= max_chars:
            break  # The rest is free again when the transaction ends, and comes after these.
        ids.append(row.id)
        chars += row.char_count
    return objects(
        connection,
        DocumentText,
        f"""
        SELECT id, created_at, source_id AS source, title, content, chunked_with FROM documents
        WHERE id = ANY(%(ids)s) AND {in_month("created_at")} ORDER BY id
        """,
        {"ids": ids, **month_bounds(month)},
    )
