"""The words of a query and their weights: document frequencies in the index, and the idf computed from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_pipeline.embedding import bm25
from rag_pipeline.stores.postgres import term_statistics

if TYPE_CHECKING:
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Database
    from rag_pipeline.stores.postgres.term_statistics import CountedWord

MAX_FULLTEXT_WORDS = 32
"""Full-text search takes the rarest words of a longer query: the others cost time without improving the ranking."""

_UNCOUNTED = 1


class Terms:
    """A query's words. Their document frequencies are read once, when first needed."""

    def __init__(self, database: Database, text: str, sources: Sequence[UUID] | None = None) -> None:
        """`sources` are those whose documents may be seen, so that hidden ones do not count; None: all."""
        from rag_pipeline.language.words import words

        self._database = database
        self._sources = sources
        self._total = 0
        self._asked: set[str] = set()
        self._counted: dict[str, CountedWord] = {}
        self.counts = Counter(words(text))
        """The number of times each word is in the query."""

    def document_frequency(self, words: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return what an embedder asks for: (live chunks in total, word → live chunks that contain it).

        A word that PostgreSQL does not count has 1, as one that a chunk might contain.
        """
        wanted = {*words, *self.counts}
        if not wanted <= self._asked:
            with self._database.connection() as connection:
                self._total, counted = term_statistics.document_frequency(
                    connection, sorted(wanted), self._sources
                )
            self._counted |= counted
            self._asked |= wanted
        return self._total, {
            word: self._counted[word].chunks if word in self._counted else _UNCOUNTED for word in words
        }

    def idf(self) -> dict[str, float]:
        """Return each word's inverse document frequency, as BM25 computes it."""
        total, holding = self.document_frequency(list(self.counts))
        return {word: bm25.idf(total, count) for word, count in holding.items()}

    def fulltext_weights(self) -> dict[str, float]:
        """Return the query's words that the index contains, as the full-text search knows them, with count × idf.

        The rarest come first.
        """
        idf = self.idf()
        found = sorted(
            (word for word in self.counts if word in self._counted and self._counted[word].chunks),
            key=lambda word: (-idf[word], word),
        )
        weights: dict[str, float] = defaultdict(float)
        for word in found[:MAX_FULLTEXT_WORDS]:
            weights[self._counted[word].lexeme] += self.counts[word] * idf[word]
        return dict(weights)
