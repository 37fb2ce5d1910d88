"""The words of a query and their weights: document frequencies in the index, and the idf computed from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from rag_pipeline.embedding import bm25
from rag_pipeline.search.request import MONTHS_AT_ONCE
from rag_pipeline.stores.postgres import term_statistics

if TYPE_CHECKING:
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Database

MAX_FULLTEXT_WORDS = 32
"""Full-text search takes the rarest words of a longer query: the others cost time without improving the ranking."""

_MOST_COUNTED = 500
"""A word that more chunks hold is not counted again; these take some milliseconds a word."""
_STEPS = 4
"""Rounded numbers in each doubling: from one to the next, a fifth more, a word's idf changes by 0.17."""


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
            if self._sources is None:
                with self._database.connection() as connection:
                    self._total, holding = term_statistics.document_frequency(connection, sorted(wanted))
            else:
                self._total, holding = visible_document_frequency(self._database, sorted(wanted), self._sources)
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


def visible_document_frequency(
    database: Database, words: Sequence[str], sources: Sequence[UUID]
) -> tuple[int, dict[str, int]]:
    """Return the document frequencies for who may see these sources, so that the order of hits does not tell of others.

    A word that few chunks hold is counted in those of the sources. For a frequent one that would take too long: its
    number in all sources is rounded up. What a hidden document adds to it is lost in that, but at the edge of a step.
    A word that no chunk holds is looked for in a month too, as one of a single hidden document is: else the time would
    tell them apart.
    """
    with database.connection() as connection:
        of_months = term_statistics.by_month(connection, words)
    totals: Counter[str] = Counter()
    for one in of_months:
        totals[one.term] += one.chunks
    counts = Counter({word: _rounded_up(total) for word, total in totals.items() if total > _MOST_COUNTED})
    counted = [one for one in of_months if one.term not in counts]
    if every := [one.month for one in of_months if one.term == term_statistics.ALL]:
        # Any month, but always the same for a word, so that asking again tells no more.
        absent = [word for word in words if word not in totals]
        counted += [term_statistics.OfMonth(word, every[crc32(word.encode()) % len(every)], 0) for word in absent]
    months = sorted({one.month for one in counted})
    for at in range(0, len(months), MONTHS_AT_ONCE):
        some = months[at : at + MONTHS_AT_ONCE]
        with database.connection() as connection:
            counts += term_statistics.count_in_sources(
                connection, [one for one in counted if some[0] <= one.month <= some[-1]], sources
            )
    return counts.pop(term_statistics.ALL, 0), dict(counts)


def _rounded_up(number: int) -> int:
    return math.ceil(2 ** (math.ceil(math.log2(number) * _STEPS) / _STEPS))
