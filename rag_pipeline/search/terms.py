"""The words of a query and their weights: document frequencies in the index, and the idf computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_pipeline.embedding import bm25
from rag_pipeline.stores.postgres import term_statistics

if TYPE_CHECKING:
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Database

MAX_FULLTEXT_WORDS = 32
"""Full-text search takes the rarest words of a longer query: the others cost time without improving the ranking."""


class Terms:
    """A query's words. Their document frequencies are read once, when first needed."""

    def __init__(self, database: Database, text: str, sources: Sequence[UUID] | None = None) -> None:
        """`sources` are those whose documents may be seen, so that hidden ones do not count; None: all."""
        from rag_pipeline.language.words import words

        self._database = database
        self._sources = sources
        self._total = 0
        self._holding: dict[str, int] = {}
        self.counts = Counter(words(text))
        """The number of times each word is in the query."""

    def document_frequency(self, words: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return what an embedder asks for: (live chunks in total, word → live chunks that contain it)."""
        wanted = {*words, *self.counts}
        if not wanted <= self._holding.keys():
            with self._database.connection() as connection:
                self._total, holding = term_statistics.document_frequency(
                    connection, sorted(wanted), self._sources
                )
            self._holding |= {word: holding.get(word, 0) for word in wanted}
        return self._total, {word: self._holding[word] for word in words}

    def idf(self) -> dict[str, float]:
        """Return each word's inverse document frequency, as BM25 computes it."""
        total, holding = self.document_frequency(list(self.counts))
        return {word: bm25.idf(total, count) for word, count in holding.items()}

    def fulltext_weights(self) -> dict[str, float]:
        """Return the query's words that the index contains, rarest first, each with its count × idf."""
        idf = self.idf()
        _, holding = self.document_frequency(list(self.counts))
        found = sorted((word for word, count in holding.items() if count), key=lambda word: (-idf[word], word))
        return {word: self.counts[word] * idf[word] for word in found[:MAX_FULLTEXT_WORDS]}
