"""Documents are parsed on the nodes of a cluster. Their bytes are sent there, so that no node needs access to a source.

Parsing changes nothing but what it returns: what a node was parsing when it died is parsed again by another one, without
leases. Each actor has processes of its own for it, which are killed at a deadline (`documents/parsing/parser_pool.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rag_pipeline.distributed.cluster import joined, node_name, room
from rag_pipeline.distributed.fleet import MemberReport
from rag_pipeline.documents.parsing import parser
from rag_pipeline.documents.parsing.parsed_document import ParsedDocument
from rag_pipeline.errors import DocumentError, RagError, StoreUnavailableError

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings

_LOOK_SECONDS = 1.0
_START_SECONDS = 60
"""How long an actor or its processes may take to start, besides the deadline of a document."""
_TRIES = 3
"""So many nodes may die or be silent over a document."""


class Parser:
    """The class of the actor."""

    def __init__(self, workers: int, seconds: float, memory_mb: int) -> None:
        from rag_pipeline.documents.parsing.parser_pool import ParserPool

        self._pool = ParserPool(workers, seconds, memory_mb)

    def node(self) -> str:
        """Say where this is, and that it has started."""
        return node_name()

    def parse(self, data: bytes, name: str, language: str | None) -> ParsedDocument | RagError:
        """Return what `ParserPool.parse` returns, or the error that it raises: Ray would add a traceback to it."""
        try:
            return self._pool.parse(data, name, language=language)
        except RagError as error:
            return error


class _Place:
    """An actor, as the run sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.node = ""
        self.done = 0
        self.end = ""
        self.began_at = time.monotonic()
        self.heard_at = self.began_at

    def report(self) -> MemberReport:
        return MemberReport(self.node, self.done, self.heard_at - self.began_at, self.end)


@contextmanager
def parsing(settings: Settings) -> Iterator[DistantParsers]:
    """Join the cluster of `RAG_RAY_ADDRESS` and have its nodes parse documents. Raises what `cluster.joined` raises."""
    assert settings.ray_address
    with joined(settings.ray_address) as ray:
        parsers = DistantParsers(settings, ray)
        try:
            yield parsers
        finally:
            parsers.close()


class DistantParsers:
    """Parses documents, from several threads, as a `ParserPool` does."""

    def __init__(self, settings: Settings, ray: Any) -> None:
        self._settings = settings
        self._ray = ray
        self._at_once = max(1, int(settings.ray_worker_cpus))
        self._lock = threading.Lock()
        self._free: queue.LifoQueue[_Place] = queue.LifoQueue()
        self._places: list[_Place] = []
        self._look_at = 0.0
        self._room_at = time.monotonic()
        self._is_closed = False

    @property
    def at_once(self) -> int:
        """How many documents the nodes that there are now parse at the same time."""
        return self._at_once * (self._settings.ray_workers or room(self._ray, self._settings))

    def parse(self, data: bytes, name: str, *, language: str | None = None) -> ParsedDocument:
        """Return what `parser.parse` returns. A short text is parsed in this process.

        Raises `StoreUnavailableError` if no node has room, and a `DocumentError` if the document takes several nodes
        down.
        """
        if parser.is_quick(data, name):
            return parser.parse(data, name, language=language)
        for _ in range(_TRIES):
            place = self._take()
            try:
                answer = self._ray.get(
                    place.actor.parse.remote(data, name, language),
                    timeout=self._settings.parse_seconds + _START_SECONDS,
                )
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError) as error:
                self._lost(place, type(error).__name__)
                continue
            place.heard_at = time.monotonic()
            place.done += 1
            self._free.put(place)
            if isinstance(answer, RagError):
                raise answer
            return answer
        raise DocumentError(
            f"{parser.shown_name(name)}: {_TRIES} nodes of the Ray cluster were lost while they parsed it"
        )

    def reports(self) -> list[MemberReport]:
        """What each actor did that came up, those included that died."""
        return [place.report() for place in self._places if place.node]

    def close(self) -> None:
        """End all actors. Whoever is waiting for one gets a `RagError` that does not blame the document."""
        self._is_closed = True
        for place in self._places:
            if not place.end:
                self._ray.kill(place.actor, no_restart=True)

    def _take(self) -> _Place:
        while True:
            if self._is_closed:
                raise RagError("documents cannot be parsed any more: the run has ended")
            self._start_missing()
            try:
                place = self._free.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if not place.end:  # One that died is still there as often as it parses documents at once.
                return place

    def _start_missing(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._look_at:
                return
            self._look_at = now + _LOOK_SECONDS
            space = room(self._ray, self._settings)
            living = sum(not place.end for place in self._places)
            for _ in range((self._settings.ray_workers or space) - living):
                threading.Thread(target=self._start, args=(self._new(),), daemon=True).start()
            if space:
                self._room_at = now
            elif now - self._room_at > self._settings.ray_lease_seconds:
                raise StoreUnavailableError(
                    f"the Ray cluster at RAG_RAY_ADDRESS={self._settings.ray_address}: no node has room for a parser "
                    "(RAG_RAY_WORKER_CPUS, RAG_RAY_WORKER_GPUS); nothing was lost, run again"
                )

    def _new(self) -> _Place:
        settings = self._settings
        place = _Place(
            self._ray.remote(Parser)
            .options(
                num_cpus=settings.ray_worker_cpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=self._at_once,
                scheduling_strategy="SPREAD",
            )
            .remote(self._at_once, settings.parse_seconds, settings.parse_memory_mb)
        )
        self._places.append(place)
        return place

    def _start(self, place: _Place) -> None:
        """Wait until an actor is there: the cluster may be full."""
        try:
            place.node = self._ray.get(place.actor.node.remote())
        except Exception as error:
            self._lost(place, type(error).__name__)
            return
        place.began_at = place.heard_at = time.monotonic()
        for _ in range(self._at_once):
            self._free.put(place)

    def _lost(self, place: _Place, why: str) -> None:
        place.end = place.end or why
        if not self._is_closed:
            self._ray.kill(place.actor, no_restart=True)
