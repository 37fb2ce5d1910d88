"""Searches for an asker: what may be seen, `search_cache`, how many at once, and the counts of what was shown."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import anyio
from anyio import to_thread

from rag_pipeline.accounts.permissions import visible_sources
from rag_pipeline.errors import ConfigError
from rag_pipeline.search import search
from rag_pipeline.search.results import MAX_LIMIT, Mode
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.problems import ProblemError, unavailable
from rag_pipeline.service.search_cache import SearchCache
from rag_pipeline.service.usage import Usage
from rag_pipeline.stores.filters import Filters
from rag_pipeline.stores.postgres import index_epochs, sources
from rag_pipeline.stores.postgres.search_queries import Shown

if TYPE_CHECKING:
    from rag_pipeline.accounts.api_keys import Asker
    from rag_pipeline.pipeline import Pipeline

T = TypeVar("T")

_AT_ONCE = max(4, 2 * (os.cpu_count() or 1))
"""Searches at once: while some wait for a store, others compute."""
_WAITING = 64
"""Searches that wait; more are told to come again."""
_SECONDS = 30.0
"""A search that takes longer is given up by its asker's connection; PostgreSQL and Milvus have limits of their own."""


class Gate:
    """Lets a few in at once, has some wait, and sends the others away."""

    def __init__(self, at_once: int = _AT_ONCE, waiting: int = _WAITING) -> None:
        self._limiter = anyio.Semaphore(at_once)
        self._most_waiting = waiting
        self.waiting = 0

    @asynccontextmanager
    async def entered(self, is_gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        """Enter when it is one's turn. Raises `ProblemError` if too many wait, or the asker has gone meanwhile."""
        if self.waiting >= self._most_waiting:
            raise unavailable("too many searches at once: try again in a moment", 1)
        self.waiting += 1
        try:
            await self._limiter.acquire()
        finally:
            self.waiting -= 1
        try:
            if await is_gone():
                raise ProblemError(503, "the asker has gone")
            yield
        finally:
            self._limiter.release()


@dataclass(frozen=True)
class Answer:
    """Hits, best first, as `rag-pipeline search --json` prints them."""

    hits: list[dict[str, Any]]
    dates: list[datetime]
    """The dates of the hits' documents."""
    seconds: float
    cached: bool
    facets: dict[str, dict[str, int]]
    """How many of all hits that were looked at, also before the offset, have each source and language."""


class Searching:
    """Answers searches. Everything that decides an answer is read from PostgreSQL for each of them."""

    def __init__(self, pipeline: Pipeline, cache: SearchCache, usage: Usage, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._cache = cache
        self._usage = usage
        self._metrics = metrics
        self._gate = Gate()
        metrics.waiting.set_function(lambda: self._gate.waiting)

    async def answer(
        self,
        asker: Asker,
        query: str,
        mode: Mode,
        offset: int,
        limit: int,
        filters: Filters,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Answer:
        """Return the hits of a search among what the asker may see.

        Raises `ProblemError` if too many search at once or the search takes too long, and what `search` raises.
        """
        if offset + limit > MAX_LIMIT:
            raise ConfigError(f"offset + limit is at most {MAX_LIMIT}: narrow the search with filters")
        async with self._gate.entered(is_gone):
            return await in_thread(self._answer, asker, query, mode, offset, limit, filters)

    def _answer(self, asker: Asker, query: str, mode: Mode, offset: int, limit: int, filters: Filters) -> Answer:
        start = time.perf_counter()
        pipeline = self._pipeline
        with pipeline.stores.database.connection() as connection:
            # Before the search, so that an answer is never kept under a later epoch than it was made in.
            epoch = index_epochs.current(connection)
            visible = visible_sources(asker.permissions, sources.access(connection))
        question = {
            "query": query.strip(),
            "mode": mode,
            "limit": offset + limit,
            "filters": {name: str(value) for name, value in asdict(filters).items() if value},
            "sources": None if visible is None else [str(source) for source in visible],
            "generations": {kind: one.name for kind, one in pipeline.collections.generations.items()},
            "epoch": epoch,
        }

        def made() -> dict[str, Any]:
            found = search(
                pipeline,
                query,
                mode=mode,
                limit=offset + limit,
                filters=filters,
                only_sources=visible,
                count=False,
            )
            for stage, seconds in found.stages.items():
                self._metrics.stages.labels(stage).observe(seconds)
            return {
                "hits": [hit.as_json() for hit in found.hits],
                "dates": [hit.document_created_at.isoformat() for hit in found.hits],
                "facets": {
                    "source": dict(Counter(hit.source_id.partition(":")[0] for hit in found.hits).most_common()),
                    "language": dict(Counter(hit.language for hit in found.hits if hit.language).most_common()),
                },
            }

        answer, is_cached = self._cache.get_or_search(question, made)
        self._metrics.cache.labels("hit" if is_cached else "miss").inc()
        hits = answer["hits"][offset : offset + limit]
        dates = [datetime.fromisoformat(date) for date in answer["dates"][offset : offset + limit]]
        self._usage.shown(
            Shown(UUID(hit["chunk_id"]), date, hit["score"]) for hit, date in zip(hits, dates, strict=True)
        )
        return Answer(hits, dates, time.perf_counter() - start, is_cached, answer["facets"])


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """Return what a blocking call returns. Raises `ProblemError` if it takes too long; it then ends by itself."""
    try:
        with anyio.fail_after(_SECONDS):
            return await to_thread.run_sync(call, *arguments, abandon_on_cancel=True)
    except TimeoutError:
        raise unavailable(f"this takes more than {_SECONDS:.0f} seconds: try again later") from None
