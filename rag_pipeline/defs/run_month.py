"""A month's job in this process, as `rag-pipeline ingest` runs it: the run is recorded and shows in the UI."""

import os
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from sqlalchemy.exc import DBAPIError

from rag_pipeline.defs import run_owners
from rag_pipeline.defs.event_storage import reason, write_events_by_step
from rag_pipeline.defs.index_months import config_of
from rag_pipeline.defs.jobs import INDEX_MONTH, INDEX_MONTHS
from rag_pipeline.defs.month_partitions import MONTHS_TAG, months_tag
from rag_pipeline.defs.run_owners import PROCESS_TAG, owned, this_process
from rag_pipeline.errors import RagError, StoreUnavailableError, one_line
from rag_pipeline.indexing.month_run import MonthRun, MonthRuns
from rag_pipeline.stores.postgres.refusals import what_to_do

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rag_pipeline.indexing.scan import ScanResult
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig
    from rag_pipeline.stores.postgres.generations import GenerationRow

_NO_RETRY = {"dagster/max_retries": "0"}
"""Whoever started the command runs it again, or the sensor does; Dagster's daemon must not do so as well."""

_EXPIRED_AT_ONCE = 2000
"""Old runs that an ingest deletes at most; they take some seconds."""


def run_month(pipeline: "Pipeline", month: "Month", run: MonthRun) -> None:
    """Run `index_month` for a month with an open pipeline. Its steps add what they do to `run`.

    Raises `StoreUnavailableError` if a store is down, and a `RagError` if the run fails otherwise: the library's own
    error, or the description of the failed check.
    """
    from rag_pipeline.defs.month_partitions import show_months

    def shown(instance: dg.DagsterInstance) -> bool:
        return month in show_months(instance, pipeline)  # It can have expired since its work was found.

    job = _Job(INDEX_MONTH, str(month), {"month_run": run}, month.partition_key)
    _run_job(pipeline, job, shown)


def run_months(pipeline: "Pipeline", months: "Sequence[Month]", runs: MonthRuns) -> None:
    """Run `index_months` for these months with an open pipeline. It tells `runs` how each ended.

    Raises `StoreUnavailableError` if a store is down, and a `RagError` if the run fails for another reason than a
    month.
    """
    name = f"{months[0]} to {months[-1]}"
    tags = {MONTHS_TAG: months_tag(months)}
    try:
        _run_job(pipeline, _Job(INDEX_MONTHS, name, {"month_runs": runs}, None, config_of(months), tags))
    except StoreUnavailableError:
        raise
    except RagError:
        if not runs.failed:
            raise


def build_generation_month(pipeline: "Pipeline", row: "GenerationRow", month: "Month", run: MonthRun) -> None:
    """Run `build_generation` for a month of a generation that is not live, as `run_month` runs the live one's job."""
    from rag_pipeline.defs.next_generation import BUILD_GENERATION, key_of, show_generation_months

    def shown(instance: dg.DagsterInstance) -> bool:
        show_generation_months(instance, pipeline, row)
        return True

    key = key_of(row, month)
    _run_job(pipeline, _Job(BUILD_GENERATION, key, {"month_run": run}, key), shown)


@dataclass(frozen=True)
class _Job:
    """A job to be run in this process."""

    job: str
    name: str
    """What it is run for, for people."""
    resources: "Mapping[str, Any]"
    """Besides the pipeline: what is to be told of its work."""
    partition_key: str | None
    config: "Mapping[str, Any]" = field(default_factory=dict)
    tags: "Mapping[str, str]" = field(default_factory=dict)


def _run_job(
    pipeline: "Pipeline", job: _Job, shown: "Callable[[dg.DagsterInstance], bool]" = lambda instance: True
) -> None:
    """Run a job in this process, if `shown`, which makes its partition known to Dagster, says that it exists."""
    instance = _instance(pipeline)
    run_id = str(uuid4())
    try:
        if not shown(instance):
            return
        with owned(pipeline.stores.database, run_id):
            result = (
                _definitions(pipeline)
                .resolve_job_def(job.job)
                .execute_in_process(
                    run_id=run_id,
                    partition_key=job.partition_key,
                    instance=instance,
                    resources=job.resources,
                    tags={PROCESS_TAG: this_process(), **_NO_RETRY, **job.tags},
                    raise_on_error=False,
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **job.config},
                )
            )
    except DBAPIError as error:
        raise _unavailable(error, f"the run of {job.name}") from None
    if not result.success:
        raise _reason(result, job.name)


def end_ownerless_runs(pipeline: "Pipeline") -> "list[Month]":
    """End the runs that Dagster still lists as running although their processes are gone; return their months."""
    return run_owners.end_ownerless_runs(_instance(pipeline), pipeline.stores.database)


def cancel_runs_of_this_process(pipeline: "Pipeline") -> None:
    """End the runs of this process as canceled, because it was interrupted."""
    run_owners.cancel_runs_of_this_process(_instance(pipeline))


def cancel_launched_runs(pipeline: "Pipeline", seconds: float) -> None:
    """End the runs of `rag-pipeline dev` as canceled, because it was interrupted; wait for them for so long."""
    try:
        run_owners.cancel_launched_runs(_instance(pipeline), pipeline.stores.database, seconds)
    except DBAPIError as error:
        raise _unavailable(error, "that its runs were canceled") from None


def expire_history(pipeline: "Pipeline") -> None:
    """Delete some of the runs that are too old, once an hour: there may be no daemon that deletes them at night."""
    from rag_pipeline.defs import run_history

    try:
        if not pipeline.settings.history_days or not run_history.is_due_again(_instance(pipeline)):
            return
        # Another instance, which knows where Dagster's daemon keeps the logs of its runs.
        with dg.DagsterInstance.get() as instance:
            run_history.expire_history(instance, pipeline, run_history.CODE_LOCATION, at_most=_EXPIRED_AT_ONCE)
    except DBAPIError as error:
        raise _unavailable(error, "which runs are old") from None


def record_scan(pipeline: "Pipeline", source: "SourceConfig", result: "ScanResult | None") -> None:
    """Record the scan of a source as its sensor does."""
    from rag_pipeline.defs.source_check import record_scan

    try:
        record_scan(_instance(pipeline), pipeline, source, result)
    except DBAPIError as error:
        raise _unavailable(error, f"the scan of {source.name}") from None


_GONE = ("08", "57P")
"""The classes of SQLSTATE of a lost connection and of a server that ends or starts."""


def _unavailable(error: DBAPIError, what: str) -> StoreUnavailableError:
    """Say in one line what happened to Dagster's storage while it recorded something, and what to do about it."""
    said = reason(error)
    state = getattr(error.orig, "pgcode", None) or ""
    if cure := what_to_do(state, said):
        happened = "refused to work"
    elif state.startswith(_GONE) or not state:
        happened, cure = "became unreachable", "start it (the embedded one: `rag-pipeline up`)"
    else:
        happened, cure = "failed", "mend that"
    return StoreUnavailableError(
        f"PostgreSQL {happened} while Dagster recorded {what}: {said}; {cure} and run again, nothing was lost"
    )


def _reason(result: dg.ExecuteInProcessResult, name: str) -> RagError:
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking:
            return RagError(evaluation.description or f"check {evaluation.check_name} failed")
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None:
            raised = error.cls_name or ""
            if raised == StoreUnavailableError.__name__:
                return StoreUnavailableError(error.message.removeprefix(f"{_path(raised)}: ").strip())
            if error.cause is None:
                return RagError(f"run {result.run_id}: {one_line(RagError(error.message))}")
            error = error.cause
    return RagError(f"run {result.run_id} of {name} failed: see it in the Dagster UI")


def _path(name: str) -> str:
    return f"{RagError.__module__}.{name}"


@cache
def _instance(pipeline: "Pipeline") -> dg.DagsterInstance:
    from rag_pipeline.dagster_home import dagster_environment

    if "DAGSTER_HOME" not in os.environ:
        os.environ.update(dagster_environment(pipeline.settings, pipeline.endpoints))
    instance = dg.DagsterInstance.get()
    write_events_by_step(instance)
    # What the process prints is for whoever started it. To copy it into a log takes two more processes for each step.
    instance._compute_log_manager = NoOpComputeLogManager()
    create = instance.create_run_for_job

    def create_with_origin(job_def: dg.JobDefinition, **arguments: "Any") -> dg.DagsterRun:
        # A run in process has no code location, and the UI's timeline leaves out runs that have none.
        return create(job_def, **arguments, remote_job_origin=_origin(job_def.name))

    instance.create_run_for_job = create_with_origin  # type: ignore[method-assign,assignment]
    return instance


def _origin(job: str) -> RemoteJobOrigin:
    """Return the origin of a run of a job in the code location that `workspace.yaml` names."""
    module = LoadableTargetOrigin(executable_path=sys.executable, module_name="rag_pipeline.definitions")
    location = ManagedGrpcPythonEnvCodeLocationOrigin(module, location_name="rag_pipeline")
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)


@cache
def _definitions(pipeline: "Pipeline") -> dg.Definitions:
    from rag_pipeline.defs.build import build_defs

    return build_defs({"pipeline": pipeline})
