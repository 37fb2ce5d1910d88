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
class Judgement:
    """What people say of a document as the answer to a query."""

    query: str
    source_id: str
    helpful: bool
    """Whether more people find it helpful than not."""


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


def judged(connection: Connection) -> list[Judgement]:
    """Return the judgements of the queries for which a document was found helpful, by query and document."""
    return objects(
        connection,
        Judgement,
        """
        WITH counted AS (
            SELECT query_key, min(query) AS query, source_id,
                count(*) FILTER (WHERE is_helpful) > count(*) FILTER (WHERE NOT is_helpful) AS helpful
            FROM search_judgements GROUP BY query_key, source_id
        )
        SELECT query, source_id, helpful FROM counted
        WHERE query_key IN (SELECT query_key FROM counted WHERE helpful)
        ORDER BY query, source_id
        """,
    )
