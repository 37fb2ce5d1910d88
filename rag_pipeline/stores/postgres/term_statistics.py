"""`term_statistics`: the number of live chunks of a source that contain a word, for the weight of query words (BM25's idf)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import named, value, values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection, Database

ALL = ""
"""The word of all live chunks."""


class CountedWord(NamedTuple):
    """A word as the full-text search knows it, and the number of live chunks that contain it."""

    lexeme: str
    chunks: int


def _of(sources: Sequence[UUID] | None) -> str:
    """The condition that a row `t` is of one of the sources, if not all are meant."""
    return "true" if sources is None else "t.source = ANY(%(sources)s)"


def document_frequency(
    connection: Connection, words: Sequence[str], sources: Sequence[UUID] | None = None
) -> tuple[int, dict[str, CountedWord]]:
    """Return (number of live chunks, word → its count), in these sources; None: in all.

    Words are counted as PostgreSQL writes them, which has lower-case letters where Python's `casefold` has capitals
    (Cherokee); what it takes for no word, such as some numbers in circles, is not counted and absent here.

    The key of the table has the source before the month, so that rows of other sources are not read: neither the
    numbers nor the time tell whether those have a word.
    """
    rows = named(
        connection,
        f"""
        WITH asked AS MATERIALIZED (
            SELECT word, CASE WHEN word = '{ALL}' THEN ARRAY[word]
                ELSE tsvector_to_array(to_tsvector('japanese', word)) END AS lexemes
            FROM unnest(%(words)s::text[]) AS word
        )
        SELECT asked.word, asked.lexemes[1] AS lexeme, coalesce(sum(t.chunks), 0)::bigint AS chunks
        FROM asked LEFT JOIN term_statistics t ON t.term = asked.lexemes[1] AND {_of(sources)}
        WHERE cardinality(asked.lexemes) = 1 GROUP BY asked.word, asked.lexemes[1]
        """,
        {"words": [*words, ALL], "sources": None if sources is None else list(sources)},
    )
    counts = {row.word: CountedWord(row.lexeme, row.chunks) for row in rows}
    return counts.pop(ALL).chunks, counts


def months_with(
    connection: Connection, lexemes: Sequence[str] = (ALL,), sources: Sequence[UUID] | None = None
) -> list[Month]:
    """Return the months in which live chunks of these sources (None: all) contain one of these words, in order."""
    months = values(
        connection,
        f"""
        SELECT DISTINCT t.month FROM term_statistics t
        WHERE t.term = ANY(%(lexemes)s) AND t.chunks > 0 AND {_of(sources)} ORDER BY 1
        """,
        {"lexemes": list(lexemes), "sources": None if sources is None else list(sources)},
    )
    return [Month(first.year, first.month) for first in months]


def has_table(database: Database) -> bool:
    """Return whether the table exists: it does from the first ingest on."""
    with database.connection() as connection:
        return bool(value(connection, "SELECT to_regclass('term_statistics') IS NOT NULL"))


def live_chunks(connection: Connection) -> int:
    """Return the number of live chunks."""
    return value(connection, "SELECT coalesce(sum(chunks), 0)::bigint FROM term_statistics WHERE term = ''")
