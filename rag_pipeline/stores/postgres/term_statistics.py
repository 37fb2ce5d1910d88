"""`term_statistics`: the number of live chunks that contain a word, for the weight of query words (BM25's idf)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import named, objects, value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection

ALL = ""
"""The word of all live chunks."""


def document_frequency(connection: Connection, words: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Return (number of live chunks, word → number of live chunks that contain it)."""
    query = "SELECT term, sum(chunks)::bigint AS chunks FROM term_statistics WHERE term = ANY(%s) GROUP BY term"
    counts = {row.term: row.chunks for row in named(connection, query, ([*words, ALL],))}
    return counts.pop(ALL, 0), counts


@dataclass(frozen=True)
class OfMonth:
    """In how many live chunks of a month a word is."""

    term: str
    """A word, or `ALL`."""
    month: date
    chunks: int


def by_month(connection: Connection, words: Sequence[str]) -> list[OfMonth]:
    """Return where the words are, and `ALL` chunks, in the order of the months."""
    query = "SELECT term, month, chunks FROM term_statistics WHERE term = ANY(%s) AND chunks > 0 ORDER BY month"
    return objects(connection, OfMonth, query, ([*words, ALL],))


def count_in_sources(
    connection: Connection, counted: Sequence[OfMonth], sources: Sequence[UUID]
) -> dict[str, int]:
    """Count the live chunks of these sources with each word in each of its months.

    As in `search_queries.fulltext`, ask for a few months at a time.
    """
    rows = named(
        connection,
        f"""
        SELECT word.term, count(*)::bigint AS chunks
        FROM unnest(%(terms)s::text[], %(lexemes)s::text[], %(months)s::date[]) AS word (term, lexeme, month)
        CROSS JOIN LATERAL (
            SELECT c.document_id FROM document_chunks c
            WHERE c.live AND c.content_words @@ word.lexeme::tsquery AND {_OF_MONTH} AND {_OF_MONTHS}
            UNION ALL
            SELECT c.document_id FROM document_chunks c
            WHERE word.term = '{ALL}' AND c.live AND {_OF_MONTH} AND {_OF_MONTHS}
        ) chunk
        JOIN source_items i ON i.document_id = chunk.document_id AND i.source = ANY(%(sources)s)
        GROUP BY word.term
        """,
        {
            "terms": [one.term for one in counted],
            # A word consists of letters and digits, so quoting it makes it a single lexeme.
            "lexemes": [f"'{one.term}'" if one.term != ALL else "" for one in counted],
            "months": [one.month for one in counted],
            "first": min(one.month for one in counted),
            "last": max(one.month for one in counted),
            "sources": list(sources),
        },
    )
    return {row.term: row.chunks for row in rows}


_OF_MONTH = """c.document_created_at >= word.month::timestamp AT TIME ZONE 'UTC'
                AND c.document_created_at < (word.month + interval '1 month') AT TIME ZONE 'UTC'"""
_OF_MONTHS = """c.document_created_at >= %(first)s::timestamp AT TIME ZONE 'UTC'
                AND c.document_created_at < (%(last)s::date + interval '1 month') AT TIME ZONE 'UTC'"""
"""All of them, for the planner: it makes plans for the partitions of these months only."""


def live_chunks(connection: Connection) -> int:
    """Return the number of live chunks."""
    return value(connection, "SELECT coalesce(sum(chunks), 0)::bigint FROM term_statistics WHERE term = ''")
