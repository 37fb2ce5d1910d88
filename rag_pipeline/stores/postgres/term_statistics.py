"""`term_statistics`: how many live chunks hold a word, for the weight of a query's words (BM25's idf)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Connection


def document_frequency(connection: Connection, words: Sequence[str]) -> tuple[int, dict[str, int]]:
    """(live chunks in all, word → live chunks that hold it)."""
    query = "SELECT term, sum(chunks)::bigint AS chunks FROM term_statistics WHERE term = ANY(%s) GROUP BY term"
    counts = {row.term: row.chunks for row in named(connection, query, ([*words, ""],))}
    return counts.pop("", 0), counts
