"""Who works on a run: its owner holds an advisory lock under the run's id, so that any host can see whether it lives.

Dagster's monitor looks after the workers that its daemon started, while that daemon and the code server live. Nothing
looks after a run in the process of `rag-pipeline ingest`, or after what a killed daemon leaves: such a run would stay
STARTED, and keep its month from every other run.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG

from rag_pipeline.defs.month_partitions import months_of_runs
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock, held
from rag_pipeline.stores.postgres.database import Database

PROCESS_TAG = "rag-pipeline/process"
"""The process of a run that no daemon started."""
_QUIET = timedelta(minutes=1)
"""A worker holds the lock from soon after its run's start until shortly before its end, and logs meanwhile."""
_WAIT_SECONDS = 10
_POLL_SECONDS = 0.2
_INTERRUPTED = "Interrupted. What was done stays, and another run of the month resumes."
_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_BEGUN = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def owned(database: Database, run_id: str) -> AbstractContextManager[None]:
    """Own a run."""
    return advisory_lock(database, _lock(run_id), _WAIT_SECONDS)


def this_process() -> str:
    """Return the value of `PROCESS_TAG` for the runs of this process."""
    return f"{socket.gethostname()}, process {os.getpid()}"


def end_ownerless_runs(instance: dg.DagsterInstance, database: Database) -> list[Month]:
    """End the runs whose owner is gone, as failed or canceled; return their months."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[*_RUNNING, *_BEGUN]))
    if not runs:
        return []
    with database.connection() as connection:
        owned_now = held(connection, [_lock(run.run_id) for run in runs])
    ended = []
    for run in runs:
        if _lock(run.run_id) in owned_now or not _is_given_up(instance, run):
            continue
        message = "The process of this run is gone. What it did stays, and another run of the month resumes."
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
        ended.append(run)
    return sorted(months_of_runs(ended))


def cancel_runs_of_this_process(instance: dg.DagsterInstance) -> None:
    """End the unfinished runs of this process as canceled, before it ends itself."""
    filters = dg.RunsFilter(tags={PROCESS_TAG: this_process()}, statuses=[*_RUNNING, *_BEGUN])
    for run in instance.get_runs(filters):
        instance.report_run_canceled(run, _INTERRUPTED)


def cancel_launched_runs(instance: dg.DagsterInstance, database: Database, seconds: float) -> None:
    """Cancel the runs of the code servers on this machine, which are about to be stopped, and wait for their ends.

    Those of a server that is gone are ended as canceled, unless their owner lives. Runs that are queued stay so.
    """
    asked: set[str] = set()
    deadline = time.monotonic() + seconds
    while runs := _launched_here(instance):
        new = [run for run in runs if run.run_id not in asked and not _asked_to_end(instance, run)]
        asked |= {run.run_id for run in runs}
        if new:
            with database.connection() as connection:
                owned_now = held(connection, [_lock(run.run_id) for run in new])
            for run in new:
                if _lock(run.run_id) not in owned_now:
                    instance.report_run_canceled(run, _INTERRUPTED)
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def _launched_here(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the unfinished runs of code servers that listen on a socket, as those of `dagster dev` do."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=[*_RUNNING, *_BEGUN]))
    return [run for run in unfinished if json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")]


def _asked_to_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Ask a run's code server to end it; return whether the server has it."""
    try:
        return instance.run_launcher.terminate(run.run_id)
    except DagsterUserCodeUnreachableError:
        return False


def _lock(run_id: str) -> str:
    return f"run {run_id}"


def _is_given_up(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run that nobody owns is not about to be owned, or about to end."""
    if PROCESS_TAG in run.tags:
        # Owned from before its first event until after its last one.
        return True
    if run.status in _BEGUN:
        return False  # The daemon ends those that do not start in time.
    last = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return not last or datetime.now(UTC).timestamp() - last[0].timestamp > _QUIET.total_seconds()
