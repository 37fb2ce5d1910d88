"""What one search asks for, as its stages pass it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import schema

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

    def windows(self) -> Iterator[tuple[Month, Month]]:
        """Yield the existing months that the filters' dates allow, a few at a time: the first and the last of them."""
        since, until = self.filters.since, self.filters.until
        months = [
            month
            for month in schema.existing_months(self.pipeline.stores.database)
            if (until is None or month.start < until) and (since is None or month.end > since)
        ]
        for at in range(0, len(months), MONTHS_AT_ONCE):
            some = months[at : at + MONTHS_AT_ONCE]
            yield some[0], some[-1]
