"""`term_statistics`: the number of live chunks of a source that contain a word, for the weight of query words (BM25's idf)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import named, value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection

ALL = ""
"""The word of all live chunks."""


def document_frequency(
    connection: Connection, words: Sequence[str], sources: Sequence[UUID] | None = None
) -> tuple[int, dict[str, int]]:
    """Return (number of live chunks, word → number of live chunks that contain it), in these sources; None: in all.

    The key of the table has the source before the month, so that rows of other sources are not read: neither the
    numbers nor the time tell whether those have a word.
    """
    of_sources = "" if sources is None else "AND source = ANY(%(sources)s)"
    rows = named(
        connection,
        f"""
        SELECT term, sum(chunks)::bigint AS chunks FROM term_statistics
        WHERE term = ANY(%(words)s) AND chunks > 0 {of_sources} GROUP BY term
        """,
        {"words": [*words, ALL], "sources": None if sources is None else list(sources)},
    )
    counts = {row.term: row.chunks for row in rows}
    return counts.pop(ALL, 0), counts


def live_chunks(connection: Connection) -> int:
    """Return the number of live chunks."""
    return value(connection, "SELECT coalesce(sum(chunks), 0)::bigint FROM term_statistics WHERE term = ''")
