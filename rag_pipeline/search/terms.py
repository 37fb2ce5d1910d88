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
        self._counted: dict[str, CountedWord | None] = {}
        self.counts = Counter(words(text))
        """The number of times each word is in the query."""

    def document_frequency(self, words: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return what an embedder asks for: (live chunks in total, word → live chunks that contain it).

        A word that PostgreSQL does not count has 1, as one that a chunk might contain.
        """
        wanted = {*words, *self.counts}
        if not wanted <= self._counted.keys():
            with self._database.connection() as connection:
                self._total, counted = term_statistics.document_frequency(
                    connection, sorted(wanted), self._sources
                )
            self._counted |= {word: counted.get(word) for word in wanted}
        found = {word: self._counted[word] for word in words}
        return self._total, {word: one.chunks if one else _UNCOUNTED for word, one in found.items()}

    def idf(self) -> dict[str, float]:
        """Return each word's inverse document frequency, as BM25 computes it."""
        total, holding = self.document_frequency(list(self.counts))
        return {word: bm25.idf(total, count) for word, count in holding.items()}

    def fulltext_weights(self) -> dict[str, float]:
        """Return the query's words that the index contains, as the full-text search knows them, with count × idf.

        The rarest come first.
        """
        idf = self.idf()
        found = {word: one.lexeme for word in self.counts if (one := self._counted[word]) and one.chunks}
        weights: dict[str, float] = defaultdict(float)
        for word in sorted(found, key=lambda word: (-idf[word], word))[:MAX_FULLTEXT_WORDS]:
            weights[found[word]] += self.counts[word] * idf[word]
        return dict(weights)
