"""`search_judgements`: whether a document answers a query, by what people clicked on the search page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import objects

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class JudgedDocument:
    """What all who judged a document think of it as an answer to a query."""

    query: str
    source_id: str
    helpful: bool


def judge(connection: Connection, query: str, source_id: str, user: UUID, is_helpful: bool | None) -> None:
    """Store what somebody says of a document, in place of what they said before; None takes it back."""
    values = {"query": query, "source_id": source_id, "user": user, "is_helpful": is_helpful}
    if is_helpful is None:
        connection.execute(
            """
            DELETE FROM search_judgements
            WHERE query_key = md5(%(query)s)::uuid AND source_id = %(source_id)s AND user_id = %(user)s
            """,
            values,
        )
        return
    connection.execute(
        """
        INSERT INTO search_judgements (query, source_id, user_id, is_helpful)
        VALUES (%(query)s, %(source_id)s, %(user)s, %(is_helpful)s)
        ON CONFLICT (query_key, source_id, user_id)
            DO UPDATE SET is_helpful = excluded.is_helpful, judged_at = now()
        """,
        values,
    )


def of_user(connection: Connection, query: str, source_ids: Sequence[str], user: UUID) -> dict[str, bool]:
    """Return what somebody says of these documents as answers to a query: source_id → helpful."""
    rows = connection.execute(
        """
        SELECT source_id, is_helpful FROM search_judgements
        WHERE query_key = md5(%(query)s)::uuid AND source_id = ANY(%(source_ids)s) AND user_id = %(user)s
        """,
        {"query": query, "source_ids": list(source_ids), "user": user},
    ).fetchall()
    return dict(rows)


def judged(connection: Connection) -> list[JudgedDocument]:
    """Return every judged document of the queries that have a helpful one, in order.

    The tally decides: a document is helpful if more users say so than say that it is not. One about which they are
    divided, or that nobody finds helpful, is not. A query without a helpful document has no answer to look for, and is
    left out.
    """
    return objects(
        connection,
        JudgedDocument,
        """
        WITH tally AS (
            SELECT query_key, source_id, min(query) AS query,
                2 * count(*) FILTER (WHERE is_helpful) > count(*) AS helpful
            FROM search_judgements GROUP BY query_key, source_id
        )
        SELECT query, source_id, helpful FROM tally
        WHERE query_key IN (SELECT query_key FROM tally WHERE helpful) ORDER BY query, source_id
        """,
    )
