"""A worker: a process of Ray's that holds a pipeline of its own, and works for a run as long as its lease is valid."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_pipeline.distributed.cluster import node_name
from rag_pipeline.distributed.same_pipeline import PipelineRecipe, open_same
from rag_pipeline.errors import RagError, one_line

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.advisory_locks import Lease, LockGuard

Task = Callable[..., Any]
"""What a worker is to do: a function of a module, called with a pipeline, a function that reports, and arguments."""


@dataclass(frozen=True)
class Opened:
    """A worker that has opened its pipeline."""

    node: str
    embedder: str
    """The fingerprint of its embedder."""


@dataclass(frozen=True)
class Report:
    """What a worker says while it works.

    `alive`: nothing new; `done`: what the task reported; `ended`: what it returned; `failed`: the `RagError` that ended
    it. Any other error is raised.
    """

    kind: str
    what: Any = None


class Worker:
    """The class of the actor. Ray calls one method at a time."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None

    def open(self, recipe: PipelineRecipe, guards: tuple[LockGuard, ...], lease: Lease) -> Opened | RagError:
        """Open the pipeline, its stores and its embedder. A `RagError` is returned: Ray would add a traceback to it."""
        try:
            pipeline = open_same(recipe)
            pipeline.stores.database.application_name = lease.sessions
            with pipeline.stores.database.connection():
                pass
            # Also imports pymilvus, which fails if threads do so together.
            _ = pipeline.stores.milvus.is_lite
            embedder = pipeline.embedder.fingerprint
        except RagError as error:
            return error.saying(f"worker on node {node_name()}: {one_line(error)}")
        self._pipeline = pipeline
        self._guards = (*guards, lease.guard)
        return Opened(node_name(), embedder)

    def work(self, task: Task, arguments: tuple[Any, ...], beat_seconds: float) -> Iterator[Report]:
        """Yield what a task reports, as it does, and a sign of life when there was nothing to say for some seconds."""
        assert self._pipeline
        pipeline, reports = self._pipeline, queue.Queue[Report | BaseException]()

        def run() -> None:
            try:
                with ExitStack() as guarded:
                    for guard in self._guards:
                        guarded.enter_context(pipeline.stores.database.guarded_by(guard))
                    returned = task(pipeline, lambda what: reports.put(Report("done", what)), *arguments)
                reports.put(Report("ended", returned))
            except RagError as error:
                reports.put(Report("failed", error))
            except BaseException as error:
                reports.put(error)

        threading.Thread(target=run, name="task", daemon=True).start()
        while True:
            try:
                report = reports.get(timeout=beat_seconds)
            except queue.Empty:
                yield Report("alive")
                continue
            if isinstance(report, BaseException):
                raise report
            yield report
            if report.kind != "done":
                return
