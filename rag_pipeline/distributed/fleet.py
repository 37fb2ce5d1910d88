"""The fleet: the workers of a run, from the run's side.

The run starts workers where the cluster has room, reads what they report, and replaces those that die. What a worker
has claimed is not given to others before its lease is revoked: then nothing that it still does can be committed. The run
holds no list of the work. Workers claim it, and when none is working, the run asks once more whether anything is left,
such as what a dead worker had claimed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_pipeline.distributed.cluster import joined, room
from rag_pipeline.distributed.same_pipeline import recipe_of
from rag_pipeline.distributed.worker import Report, Task, Worker
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.stores.postgres.advisory_locks import Lease, Leases, leases

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_log = logging.getLogger(__name__)

_MOST_BEATS_SECONDS = 5.0
_WAIT_SECONDS = 1.0
_DEATHS_IN_VAIN = 3
"""So many workers may die in a row with nothing done in between: then what they work on kills them."""


@dataclass(frozen=True)
class MemberReport:
    """What a worker did."""

    node: str
    done: int
    seconds: float
    """How long it worked."""
    end: str
    """Empty, or why it ended before the work did."""

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


class Member:
    """A worker, as the run sees it. `done` counts what it did, in the caller's unit."""

    def __init__(self, actor: Any, lease: Lease, opening: Any) -> None:
        self.actor = actor
        self.lease = lease
        self.node = ""
        self.done = 0
        self.end = ""
        self.opening = opening
        """The reference of its answer that it is ready; None afterwards."""
        self.reports: Any = None
        """The generator of its reports while it works."""
        self.heard_at = 0.0
        self._began_at = 0.0
        self._worked = 0.0

    @property
    def is_idle(self) -> bool:
        return self.opening is None and self.reports is None and not self.end

    def began(self, reports: Any) -> None:
        self.reports = reports
        self._began_at = self.heard_at = time.monotonic()

    def ended(self, why: str = "") -> None:
        """It has nothing more to do, or has died."""
        if self.reports is not None:
            self._worked += self.heard_at - self._began_at
        self.opening = self.reports = None
        self.end = why

    def report(self) -> MemberReport:
        return MemberReport(self.node, self.done, self._worked, self.end)


@contextmanager
def fleet(pipeline: Pipeline, what: str) -> Iterator[Fleet]:
    """Join the cluster of `RAG_RAY_ADDRESS`, for what `what` says in messages. At the end all workers are gone.

    Raises what `cluster.joined` raises.
    """
    assert pipeline.settings.ray_address
    guards = pipeline.stores.database.guards
    with joined(pipeline.settings.ray_address) as ray, leases(pipeline.stores.database) as granted:
        workers = Fleet(pipeline, what, ray, granted, guards)
        try:
            yield workers
        finally:
            workers.dismiss()


class Fleet:
    """Workers that do the same. `returned` is what the task returned in those that came to its end."""

    def __init__(self, pipeline: Pipeline, what: str, ray: Any, granted: Leases, guards: tuple[Any, ...]) -> None:
        self._pipeline = pipeline
        self._settings = pipeline.settings
        self._what = what
        self._ray = ray
        self._leases = granted
        self._guards = guards
        self._recipe = recipe_of(pipeline)
        self._members: list[Member] = []
        self._deaths_in_vain = 0
        self._in_vain = False
        """Nothing was done and nobody died since `is_left` was asked: nobody finds what is left."""
        self._room_at = time.monotonic()
        self._look_at = 0.0
        self.returned: list[Any] = []

    def run(
        self, task: Task, arguments: tuple[Any, ...], is_left: Callable[[], bool]
    ) -> Iterator[tuple[Member, Any]]:
        """Have workers do a task, and yield what they report, each with its worker.

        A task ends when it finds nothing more to do. `is_left` is asked when no worker is working; if so, they begin
        again. Raises the `RagError` with which a task ends, and `StoreUnavailableError` if no node has room for a worker
        or workers keep dying.
        """
        may_be_left = True  # for what nobody has looked since a worker worked
        while True:
            self._start_missing()
            for member in self._opened():
                self._begin(member, task, arguments)
                may_be_left = True
            for member, report in self._reports():
                if report.kind == "done":
                    self._deaths_in_vain = 0
                    self._in_vain = False
                    yield member, report.what
            is_working = any(member.reports is not None for member in self._members)
            if is_working or not may_be_left or all(member.opening for member in self._members):
                continue
            if not is_left() or self._in_vain:
                return
            may_be_left, self._in_vain = False, True
            for member in self._members:
                if member.is_idle:
                    self._begin(member, task, arguments)
                    may_be_left = True

    def reports(self) -> list[MemberReport]:
        """What each worker did that came up, those included that died."""
        return [member.report() for member in self._members if member.node]

    def dismiss(self) -> None:
        """End all workers. The leases have to be revoked afterwards: a worker may live on unseen."""
        for member in self._members:
            if not member.end:
                self._kill(member)

    def _start_missing(self) -> None:
        """Start workers for which there is room, and may be new room since the last time."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _WAIT_SECONDS
        space = room(self._ray, self._settings)
        wanted = self._settings.ray_workers or space
        living = sum(not member.end for member in self._members)
        for _ in range(wanted - living):
            self._start()
        now = time.monotonic()
        if space or any(member.is_idle or member.reports is not None for member in self._members):
            self._room_at = now
        if now - self._room_at > self._settings.ray_lease_seconds:
            gpus = f" and {self._settings.ray_worker_gpus:g} GPUs" if self._settings.ray_worker_gpus else ""
            raise StoreUnavailableError(
                f"{self._cluster}: no node has room for a worker ({self._settings.ray_worker_cpus:g} CPUs{gpus}, "
                f"RAG_RAY_WORKER_CPUS, RAG_RAY_WORKER_GPUS){self._last_death()}; nothing was lost, run again"
            )

    def _start(self) -> None:
        lease = self._leases.grant(f"{self._what}: a worker of Ray")
        actor = (
            self._ray.remote(Worker)
            .options(
                num_cpus=self._settings.ray_worker_cpus,
                num_gpus=self._settings.ray_worker_gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote()
        )
        self._members.append(Member(actor, lease, actor.open.remote(self._recipe, self._guards, lease)))

    def _opened(self) -> Iterator[Member]:
        """Yield workers that have become ready. They are told to work one by one: until then they claim nothing."""
        opening = {member.opening: member for member in self._members if member.opening}
        working = any(member.reports is not None for member in self._members)
        if not opening:
            if not working and not any(member.is_idle for member in self._members):
                time.sleep(_WAIT_SECONDS)
            return
        ready, _ = self._ray.wait(list(opening), num_returns=len(opening), timeout=0 if working else _WAIT_SECONDS)
        for reference in ready:
            member = opening[reference]
            try:
                opened = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                self._died(member, _reason(error))
                continue
            if isinstance(opened, RagError):
                raise opened
            if opened.embedder != self._pipeline.embedder.fingerprint:
                raise ConfigError(
                    f"{self._cluster}: on node {opened.node} RAG_EMBEDDER={self._settings.embedder} is "
                    f"{opened.embedder}, here it is {self._pipeline.embedder.fingerprint}: install the same there"
                )
            member.opening, member.node = None, opened.node
            yield member

    def _begin(self, member: Member, task: Task, arguments: tuple[Any, ...]) -> None:
        beat = min(_MOST_BEATS_SECONDS, self._settings.ray_lease_seconds / 6)
        member.began(member.actor.work.options(num_returns="streaming").remote(task, arguments, beat))

    def _reports(self) -> Iterator[tuple[Member, Report]]:
        """Wait a moment for reports, and yield one of each worker that has any. Those that are silent lose their lease."""
        working = {member.reports: member for member in self._members if member.reports is not None}
        if not working:
            return
        generators = list(working)
        ready, rest = self._ray.wait(generators, num_returns=1, timeout=_WAIT_SECONDS)
        if rest:
            more, rest = self._ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        for generator in ready:
            member = working[generator]
            try:
                report = self._ray.get(next(generator))
            except self._ray.exceptions.RayActorError as error:
                self._died(member, _reason(error))
                continue
            member.heard_at = time.monotonic()
            if report.kind == "failed":
                raise report.what.saying(f"worker on node {member.node}: {one_line(report.what)}")
            if report.kind == "ended":
                self.returned.append(report.what)
                member.ended()
            yield member, report
        for generator in rest:
            member = working[generator]
            silent = time.monotonic() - member.heard_at
            if silent > self._settings.ray_lease_seconds:
                self._died(member, f"said nothing for {silent:.0f} s (RAG_RAY_LEASE_SECONDS)")

    def _died(self, member: Member, why: str) -> None:
        _log.warning("%s: worker on node %s: %s", self._what, member.node or "?", why)
        self._kill(member)  # Ray can have lost only the connection.
        self._leases.revoke(member.lease)
        member.ended(why)
        self._in_vain = False
        self._deaths_in_vain += 1
        if self._deaths_in_vain >= _DEATHS_IN_VAIN:
            raise StoreUnavailableError(
                f"{self._cluster}: {self._deaths_in_vain} workers died in a row and nothing was done"
                f"{self._last_death()}; nothing was lost, see Ray's logs and run again"
            )

    def _kill(self, member: Member) -> None:
        try:
            self._ray.kill(member.actor, no_restart=True)
        except Exception as error:  # Ray has lost it already
            _log.info("%s: a worker could not be ended: %s", self._what, one_line(error))

    @property
    def _cluster(self) -> str:
        return f"the Ray cluster at RAG_RAY_ADDRESS={self._settings.ray_address}"

    def _last_death(self) -> str:
        deaths = [f"on node {member.node or '?'}: {member.end}" for member in self._members if member.end]
        return f", the last one {deaths[-1]}" if deaths else ""


def _reason(error: Exception) -> str:
    """Return the last line of Ray's message, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
