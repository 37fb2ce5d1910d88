"""The words of a query, and how telling each is: their frequency in the index, and the idf that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_pipeline.embedding import bm25
from rag_pipeline.stores.postgres import term_statistics

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Database

MAX_FULLTEXT_WORDS = 32
"""Of a longer query, full-text search takes the rarest: the others add time and no rank."""


class Terms:
    """A query's words. Their frequencies are asked for once, at the first need."""

    def __init__(self, database: Database, text: str) -> None:
        from rag_pipeline.language.words import words

        self._database = database
        self._total = 0
        self._holding: dict[str, int] = {}
        self.counts = Counter(words(text))
        """How often the query has each word."""

    def document_frequency(self, words: Sequence[str]) -> tuple[int, dict[str, int]]:
        """What an embedder asks for: (live chunks in all, word → live chunks that hold it)."""
        wanted = {*words, *self.counts}
        if not wanted <= self._holding.keys():
            with self._database.connection() as connection:
                self._total, holding = term_statistics.document_frequency(connection, sorted(wanted))
            self._holding |= {word: holding.get(word, 0) for word in wanted}
        return self._total, {word: self._holding[word] for word in words}

    def idf(self) -> dict[str, float]:
        """Return each word's inverse document frequency, as BM25 computes it."""
        total, holding = self.document_frequency(list(self.counts))
        return {word: bm25.idf(total, count) for word, count in holding.items()}

    def fulltext_weights(self) -> dict[str, float]:
        """The words that are in the index at all, the rarest first, each with its count × idf."""
        idf = self.idf()
        _, holding = self.document_frequency(list(self.counts))
        found = sorted((word for word, count in holding.items() if count), key=lambda word: (-idf[word], word))
        return {word: self.counts[word] * idf[word] for word in found[:MAX_FULLTEXT_WORDS]}
