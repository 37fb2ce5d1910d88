"""Queries that show a person what is there; the write path needs none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


def newest(connection: Connection, month: Month, limit: int) -> list[tuple[Any, ...]]:
    """(title, language, created_at, chunks) of a month's newest documents."""
    return connection.execute(
        """
        SELECT title, language, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), chunk_count
        FROM documents WHERE created_at >= %s AND created_at < %s ORDER BY created_at DESC LIMIT %s
        """,
        (month.start, month.end, limit),
    ).fetchall()


def sizes(connection: Connection, month: Month) -> list[tuple[str, int]]:
    """(range of tokens, live or coming chunks) of a month, in steps of 100 tokens."""
    rows = connection.execute(
        """
        SELECT token_count / 100 * 100 AS low, count(*) FROM document_chunks
        WHERE NOT retired AND document_created_at >= %s AND document_created_at < %s GROUP BY 1 ORDER BY 1
        """,
        (month.start, month.end),
    ).fetchall()
    return [(f"{low} to {low + 99}", count) for low, count in rows]
