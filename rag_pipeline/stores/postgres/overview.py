"""Queries that show a person what is there; the write path needs none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.stores.postgres.database import named
from rag_pipeline.stores.postgres.month_bounds import in_month, month_bounds

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


def newest(connection: Connection, month: Month, limit: int) -> list[tuple[Any, ...]]:
    """(title, language, created_at, chunks) of a month's newest documents."""
    return connection.execute(
        f"""
        SELECT title, language, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), chunk_count
        FROM documents WHERE {in_month("created_at")} ORDER BY created_at DESC LIMIT %(limit)s
        """,
        {**month_bounds(month), "limit": limit},
    ).fetchall()


def sizes(connection: Connection, month: Month) -> list[tuple[str, int]]:
    """(range of tokens, live or coming chunks) of a month, in steps of 100 tokens."""
    rows = named(
        connection,
        f"""
        SELECT token_count / 100 * 100 AS low, count(*) AS chunks FROM document_chunks
        WHERE NOT retired AND {in_month("document_created_at")} GROUP BY 1 ORDER BY 1
        """,
        month_bounds(month),
    )
    return [(f"{row.low} to {row.low + 99}", row.chunks) for row in rows]
