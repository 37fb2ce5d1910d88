"""`term_statistics`: the number of live chunks that contain a word, for the weight of query words (BM25's idf)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import named, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Connection


def document_frequency(connection: Connection, words: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Return (number of live chunks, word → number of live chunks that contain it)."""
    query = "SELECT term, sum(chunks)::bigint AS chunks FROM term_statistics WHERE term = ANY(%s) GROUP BY term"
    counts = {row.term: row.chunks for row in named(connection, query, ([*words, ""],))}
    return counts.pop("", 0), counts


def live_chunks(connection: Connection) -> int:
    """Return the number of live chunks."""
    return value(connection, "SELECT coalesce(sum(chunks), 0)::bigint FROM term_statistics WHERE term = ''")
