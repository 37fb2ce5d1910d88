"""What one search asks for, as its stages pass it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import term_statistics
from rag_pipeline.stores.postgres.term_statistics import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from rag_pipeline.embedding.base import EncodeQueryOf
    from rag_pipeline.generation import OpenGeneration
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.search.results import Mode
    from rag_pipeline.stopwatch import Stopwatch
    from rag_pipeline.stores.filters import Filters

MONTHS_AT_ONCE = 24
"""A query that looks for words in a few months takes hundreds of locks, a server has some 10,000 for everybody."""


@dataclass(frozen=True)
class Request:
    """A search: what is searched for, in which index, what embeds it, and the stopwatch that times its stages."""

    pipeline: Pipeline
    generation: OpenGeneration
    """The one that is searched, from the beginning to the end, also if another one goes live meanwhile."""
    text: str
    mode: Mode
    limit: int
    filters: Filters
    sources: Sequence[UUID] | None
    """Those whose documents may be found; None: all."""
    visible: Sequence[UUID] | None
    """Those whose documents the asker may see, whatever the filters say; None: all."""
    watch: Stopwatch
    encode_query_of: EncodeQueryOf | None = None
    """What embeds the text for the generation's embedder; None: it does so itself."""

    def months_with(self, lexemes: Sequence[str] = (ALL,)) -> list[Month]:
        """Return the months of the live chunks that may be found and contain one of these words, as the filters' dates allow.

        Months of hidden documents alone are not among them: to look there too would take a time of its own.
        """
        since, until = self.filters.since, self.filters.until
        with self.pipeline.stores.database.connection() as connection:
            months = term_statistics.months_with(connection, lexemes, self.sources)
        return [
            month
            for month in months
            if (until is None or month.start < until) and (since is None or month.end > since)
        ]


def windows(months: Sequence[Month]) -> Iterator[Sequence[Month]]:
    """Yield a few months at a time, for a query each."""
    for at in range(0, len(months), MONTHS_AT_ONCE):
        yield months[at : at + MONTHS_AT_ONCE]
