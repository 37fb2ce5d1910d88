"""Searches for an asker: what may be seen, `search_cache`, how many at once, and the counts of what was shown."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request

from rag_pipeline.accounts.permissions import visible_sources
from rag_pipeline.embedding.query_batches import QueryBatches
from rag_pipeline.errors import ConfigError
from rag_pipeline.search import search
from rag_pipeline.search.engine import query_text
from rag_pipeline.search.results import MAX_LIMIT, Mode, ranks
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.problems import ProblemError, unavailable
from rag_pipeline.service.reading import shared_url
from rag_pipeline.service.search_cache import SearchCache
from rag_pipeline.service.usage import Usage
from rag_pipeline.stores.filters import Filters
from rag_pipeline.stores.postgres import index_epochs, sources
from rag_pipeline.stores.postgres.search_log import Searched
from rag_pipeline.stores.postgres.search_queries import Shown

if TYPE_CHECKING:
    from rag_pipeline.accounts.api_keys import Asker
    from rag_pipeline.embedding.base import Embedder, EncodeQuery
    from rag_pipeline.pipeline import Pipeline

T = TypeVar("T")

_AT_ONCE = min(12, max(8, 2 * (os.cpu_count() or 1)))
"""Searches at once: while some wait for a store, others compute, and those that wait for Milvus Lite share its calls. Fewer
than there are connections to PostgreSQL."""
_MOST_VALUES = 20
"""Of a facet."""
_WAITING = 64
"""Searches that wait; more are told to come again."""
_SWITCHES = 5
"""How often a search begins again."""
_TEXTS_AT_ONCE = 4
"""Searches for words alone, which need no Milvus and must not wait behind those that wait for it."""
_CALLS_AT_ONCE = 40
"""Other calls that ask a store. What asks none, or asks whether they answer, has threads of its own."""
_SECONDS = 30.0
"""Nobody waits longer; PostgreSQL and Milvus have limits of their own."""


class Turns:
    """Runs searches a few at once, has some wait, and sends the others away.

    A search that its asker gave up keeps its thread until it ends, so that there are never more of them than threads.
    """

    def __init__(self, at_once: int = _AT_ONCE, waiting: int = _WAITING) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="search")
        self._at_once = at_once
        self._most = at_once + waiting
        self._entered = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when the number of those that wait may have changed."""

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return max(0, self._entered - self._at_once)

    async def run(self, call: Callable[[], T], gone: Callable[[], Awaitable[None]]) -> T:
        """Return what a call returns. `gone` returns when the asker has gone: what has not begun then never does.

        Raises `ProblemError` if too many wait, or it takes too long.
        """
        if self._entered >= self._most:
            raise unavailable("too many searches at once: try again in a moment", 1)
        self._entered += 1
        self.on_change()
        future = self._threads.submit(call)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))
        answer = asyncio.wrap_future(future)
        watch = asyncio.ensure_future(gone())
        either: set[asyncio.Future[Any]] = {answer, watch}
        try:
            await asyncio.wait(either, timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if watch.done():
                raise ProblemError(503, "the asker has gone")
            raise unavailable(f"the search takes more than {_SECONDS:.0f} seconds: try again later")
        finally:
            watch.cancel()
            if not answer.done():
                answer.add_done_callback(lambda done: done.cancelled() or done.exception())
                answer.cancel()

    def _left(self) -> None:
        self._entered -= 1
        self.on_change()

    def close(self) -> None:
        """Let nobody in any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Answer:
    """Hits, best first, as `rag-pipeline search --json` prints them."""

    hits: list[dict[str, Any]]
    dates: list[datetime]
    """The dates of the hits' documents."""
    ranks: list[dict[str, int]]
    """The place that each leg gives a hit among all of them; a leg that did not find it is absent."""
    seconds: float
    cached: bool
    facets: dict[str, dict[str, int]]
    """How many of all hits that were looked at, also before the offset, have each source, type of source, author, language, category and tag."""


class Searching:
    """Answers searches. Everything that decides an answer is read from PostgreSQL for each of them."""

    def __init__(self, pipeline: Pipeline, cache: SearchCache, usage: Usage, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._cache = cache
        self._usage = usage
        self._metrics = metrics
        self._turns, self._texts = Turns(), Turns(_TEXTS_AT_ONCE)
        self._queries: dict[int, tuple[Embedder, QueryBatches]] = {}
        for turns in (self._turns, self._texts):
            turns.on_change = self._note_waiting

    async def answer(
        self,
        asker: Asker,
        query: str,
        mode: Mode,
        offset: int,
        limit: int,
        filters: Filters,
        gone: Callable[[], Awaitable[None]],
        logged: bool = True,
        shown: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda hits: hits,
    ) -> Answer:
        """Return the hits of a search among what the asker may see. It is logged, if searches are.

        `shown` returns those of the hits that the asker gets to see, which are counted as shown.

        Raises `ProblemError` if too many search at once or the search takes too long, and what `search` raises.
        """
        if offset + limit > MAX_LIMIT:
            raise ConfigError(f"offset + limit is at most {MAX_LIMIT}: narrow the search with filters")
        start = time.perf_counter()
        turns = self._texts if mode == "fulltext" else self._turns
        answer, found = await turns.run(partial(self._answer, asker, query, mode, offset, limit, filters), gone)
        seen = {hit["chunk_id"] for hit in shown(answer.hits)}
        self._usage.shown(chunk for chunk in found if str(chunk.id) in seen)
        if logged:
            self._usage.searched(
                Searched(
                    datetime.now(UTC),
                    asked_as(query),
                    mode,
                    _as_text(filters),
                    len(answer.hits),
                    time.perf_counter() - start,
                )
            )
        return answer

    def close(self) -> None:
        """Begin no search any more."""
        self._turns.close()
        self._texts.close()

    def _note_waiting(self) -> None:
        self._metrics.waiting.set(self._turns.waiting + self._texts.waiting)

    def _answer(
        self, asker: Asker, query: str, mode: Mode, offset: int, limit: int, filters: Filters
    ) -> tuple[Answer, list[Shown]]:
        for _ in range(_SWITCHES):
            with suppress(_OvertakenError):
                return self._answer_of_one_generation(asker, query, mode, offset, limit, filters)
        raise unavailable("one generation after another went live during this search: search again", 1)

    def _answer_of_one_generation(
        self, asker: Asker, query: str, mode: Mode, offset: int, limit: int, filters: Filters
    ) -> tuple[Answer, list[Shown]]:
        """Return the answer, and its hits as they are counted when they are shown."""
        start = time.perf_counter()
        pipeline, query = self._pipeline, " ".join(query.split())
        with pipeline.stores.database.connection() as connection:
            # Before the search, so that an answer is never kept under a later epoch than it was made in.
            epoch = index_epochs.current(connection)
            visible = visible_sources(asker.permissions, sources.access(connection))
        generation = pipeline.refreshed()
        question = {
            "query": query,
            "mode": mode,
            "limit": offset + limit,
            "filters": _as_text(filters),
            "sources": None if visible is None else [str(source) for source in visible],
            "generations": {kind: one.name for kind, one in generation.collections.generations.items()},
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
                encode_query_of=self._encode_query_of,
            )
            if not pipeline.is_current(generation):
                # Its hits are of another generation than the one under whose name they would be kept.
                raise _OvertakenError
            for stage, seconds in found.stages.items():
                self._metrics.stages.labels(stage).observe(seconds)
            hits = [hit.as_json() | {"source_url": shared_url(hit.source_url)} for hit in found.hits]
            placed, scored = ranks([hit.scores for hit in found.hits]), [hit["score"] for hit in hits]
            if visible is not None:
                _hide_scores(hits)
            return {
                "hits": hits,
                "ranks": placed,
                "scored": scored,
                "dates": [hit.document_created_at.isoformat() for hit in found.hits],
                "facets": {
                    "source": _counted(hit.source for hit in found.hits),
                    "source_type": _counted(hit.source_type for hit in found.hits),
                    "author": _counted(hit.author for hit in found.hits),
                    "language": _counted(hit.language for hit in found.hits),
                    "category": _counted(hit.category for hit in found.hits),
                    "tag": _counted(tag for hit in found.hits for tag in hit.tags),
                },
            }

        answer, is_cached = self._cache.get_or_search(question, made)
        self._metrics.cache.labels("hit" if is_cached else "miss").inc()
        hits = answer["hits"][offset : offset + limit]
        dates = [datetime.fromisoformat(date) for date in answer["dates"][offset : offset + limit]]
        found = [
            Shown(UUID(hit["chunk_id"]), date, score)
            for hit, date, score in zip(hits, dates, answer["scored"][offset : offset + limit], strict=True)
        ]
        places = answer["ranks"][offset : offset + limit]
        return Answer(hits, dates, places, time.perf_counter() - start, is_cached, answer["facets"]), found

    def _encode_query_of(self, embedder: Embedder) -> EncodeQuery:
        # Of each embedder: after a switch, those who still search with the old one must not get its vectors mixed in.
        # By identity: somebody's own embedder need not be hashable.
        made = embedder, QueryBatches(lambda: embedder)
        return self._queries.setdefault(id(embedder), made)[1].encode_query


class _OvertakenError(Exception):
    """Another generation went live while a search went on."""


def asked_as(query: str) -> str:
    """Return a query as it is logged and judged: how it was typed makes no difference."""
    return " ".join(query_text(query).split())


def _as_text(filters: Filters) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(filters).items() if value}


def _counted(values: Iterable[str | None]) -> dict[str, int]:
    """Return how often each value is there, most often first."""
    return dict(Counter(value for value in values if value).most_common(_MOST_VALUES))


def _hide_scores(hits: Sequence[dict[str, Any]]) -> None:
    """Give each hit its reciprocal rank for a score: the others tell how many hidden chunks have a word."""
    for place, hit in enumerate(hits, 1):
        hit["score"] = round(1 / place, 6)
        hit["scores"] = dict.fromkeys(hit["scores"])


async def in_thread(call: Callable[..., T], *arguments: Any, limiter: CapacityLimiter | None = None) -> T:
    """Return what a call returns that asks a store. Raises `ProblemError` if it takes too long; it then ends by itself."""
    try:
        with anyio.fail_after(_SECONDS):
            return await to_thread.run_sync(
                call, *arguments, abandon_on_cancel=True, limiter=limiter or _of_calls()
            )
    except TimeoutError:
        raise unavailable(f"this takes more than {_SECONDS:.0f} seconds: try again later") from None


_calls: RunVar[CapacityLimiter] = RunVar("calls")


def _of_calls() -> CapacityLimiter:
    """The limiter of calls that ask a store, one for each event loop."""
    limiter = _calls.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_CALLS_AT_ONCE)
        _calls.set(limiter)
    return limiter


def gone_from(request: Request) -> Callable[[], Awaitable[None]]:
    """Return what `Turns.run` waits for: the end of a request's connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone
