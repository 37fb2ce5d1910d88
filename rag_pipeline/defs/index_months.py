"""The job that runs several months with little to do in one run.

Each month leaves what its own run would leave: what was planned, a materialization of each asset and an evaluation of
each check, with the month as partition. Its own run would cost more than its work: ten steps, and in the daemon a
process.

A month that fails does not keep the others from being run; the run then fails at its end, and says which months did.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.events.log import EventLogEntry
from dagster._time import get_current_timestamp
from pydantic import Field
from sqlalchemy.exc import DBAPIError

from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.defs.check_history import passed_before
from rag_pipeline.defs.check_outcomes import Targets, evaluation, target
from rag_pipeline.defs.jobs import INDEX_MONTHS
from rag_pipeline.defs.month_checks import (
    MonthChecks,
    checks_of_collections,
    checks_of_tables,
    look_at_index_now_and_then,
    month_outcomes,
)
from rag_pipeline.defs.month_partitions import MONTHS_TAG, months_tag, show_months
from rag_pipeline.defs.month_steps import chunks_step, documents_step, vectors_step
from rag_pipeline.errors import BusyError, LockLostError, RagError, StoreUnavailableError, one_line
from rag_pipeline.indexing.month_run import MonthRun, MonthRuns
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.stores.postgres import documents

FAILED, DONE = "failed", "done"
"""Metadata of a failed run: why months failed, by month, and those that did not fail. Neither has those in which only
checks failed, which have their own alerts."""

_OP = "index_each_month"
_WAIT_SECONDS = 1.0
"""For another run that works on a month. Whatever is left of that month is pending, and another run takes it."""
_SWITCH_WAIT_SECONDS = 3600.0
_LISTED = 3
_NO_MONTHS = "none"
"""The tag of a run that was to run months and ran none."""

_Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


class MonthsConfig(dg.Config):
    """The months to run, such as `2025-01`. None: all that have pending work."""

    months: list[str] = Field(default_factory=list)


def config_of(months: Sequence[Month]) -> dict[str, object]:
    """Return the configuration of a run of these months."""
    return {"ops": {_OP: {"config": {"months": [str(month) for month in months]}}}}


def index_months_job(built: Sequence[VectorKind]) -> dg.JobDefinition:
    """Return the job, for the kinds of vectors that are built."""
    checks = (checks_of_tables(built), checks_of_collections(built))

    @dg.op(
        name=_OP,
        # Nothing that an IO manager would store.
        out=dg.Out(dg.Nothing),
        description="Brings one month after the other up to date with the sources, as index_month does, and evaluates "
        "all of its checks.",
    )
    def index_each_month(
        context: dg.OpExecutionContext,
        config: MonthsConfig,
        pipeline: dg.ResourceParam[Pipeline],
        month_runs: dg.ResourceParam[MonthRuns],
    ) -> Iterator[_Event]:
        chosen = _chosen(context, config, pipeline)
        if context.run.tags.get(MONTHS_TAG, "") != months_tag(chosen):
            _tag(context, chosen)
        failed_checks: list[Month] = []
        for number, month in enumerate(chosen):
            context.log.info(f"months: {number} of {len(chosen)}")
            one = _OneMonth(context, pipeline, month, built, checks)
            try:
                yield from one.run()
                month_runs.end(month, one.done, one.blocked)
                failed_checks += [month] if one.blocked else []
            except _AnotherRunError as error:
                context.log.info(f"{month} is left to another run: {one_line(error)}")
            except StoreUnavailableError as error:
                yield from one.take()
                month_runs.end(month, one.done, one_line(error))
                if not isinstance(error, LockLostError):  # Which is about this month alone.
                    raise _failure(month_runs, failed_checks) from error
            except DBAPIError:
                raise  # Dagster's own storage, without which no month can be run.
            except Exception as error:  # The other months do not wait until this one's fault is mended.
                yield from one.take()
                context.log.error("".join(traceback.format_exception(error)))
                month_runs.end(month, one.done, one_line(error))
        if (ended := [month for month in chosen if month in month_runs.ended]) != chosen:
            _tag(context, ended)
        if month_runs.failed:
            raise _failure(month_runs, failed_checks)

    @dg.job(
        name=INDEX_MONTHS,
        description="Bring several months up to date with the sources in one run, and run their checks. For months with "
        "little to do: the sensor index_pending_months and `rag-pipeline ingest` choose them. Without months in its "
        "configuration it runs all that have pending work.",
    )
    def index_months() -> None:
        index_each_month()

    return index_months


class _AnotherRunError(RagError):
    """Another run works on the month."""


class _OneMonth:
    """A month of the run, and what Dagster is still to be told of it."""

    def __init__(
        self,
        context: dg.OpExecutionContext,
        pipeline: Pipeline,
        month: Month,
        built: Sequence[VectorKind],
        checks: Sequence[MonthChecks],
    ) -> None:
        self._context = context
        self._pipeline = pipeline
        self._month = month
        self._built = built
        self._checks = checks
        self._passed = passed_before(context.instance, context.run_id)
        self._events: list[_Event] = []
        self.done = MonthRun()
        self.blocked = ""
        """What a check found that would have failed the month's own run."""

    def take(self) -> list[_Event]:
        """Return what has been done and Dagster has not been told of."""
        events, self._events = self._events, []
        return events

    def run(self) -> Iterator[_Event]:
        """Run the steps of the month, then its checks: under its lock, any month would look as if it were stuck.

        Raises an `_AnotherRunError` if another run works on the month.
        """
        with self._alone():
            self._plan()
            self._step()
        yield from self.take()
        # A message makes Dagster store what it was told, so that the checks can name it.
        self._context.log.info(f"{self._month}: checks")
        self._check()
        yield from self.take()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                held.enter_context(
                    self._pipeline.month_lock(self._month, _WAIT_SECONDS, switch_wait_seconds=_SWITCH_WAIT_SECONDS)
                )
            except BusyError as error:
                raise _AnotherRunError(str(error)) from None
            yield

    def _plan(self) -> None:
        """Tell Dagster what is going to be done: what the run does not come to, because it is killed, is not done."""
        key = self._month.partition_key
        subset = DefaultPartitionsSubset({key})
        planned = [
            dg.DagsterEvent.build_asset_materialization_planned_event(
                INDEX_MONTHS, _OP, AssetMaterializationPlannedData(dg.AssetKey(asset), partition=key)
            )
            for asset in built_assets(self._built)
        ]
        planned += [
            dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
                job_name=INDEX_MONTHS,
                message=f"{INDEX_MONTHS} intends to execute asset check {check.name} on {check.asset_key.to_user_string()}",
                event_specific_data=AssetCheckEvaluationPlanned(
                    asset_key=check.asset_key, check_name=check.name, partitions_subset=subset
                ),
                step_key=_OP,
            )
            for checks in self._checks
            for check in checks.keys
        ]
        run_id, now = self._context.run_id, get_current_timestamp()
        self._context.instance.event_log_storage.store_event_batch(
            [
                EventLogEntry(
                    error_info=None,
                    level="debug",
                    user_message="",
                    run_id=run_id,
                    timestamp=now,
                    step_key=_OP,
                    job_name=INDEX_MONTHS,
                    dagster_event=event,
                )
                for event in planned
            ]
        )

    def _step(self) -> None:
        pipeline, month, done = self._pipeline, self._month, self.done
        self._materialized({"documents": documents_step(pipeline, month, done)})
        self._materialized({"document_chunks": chunks_step(pipeline, month, done)})
        self._materialized(vectors_step(pipeline, month, done, self._built, self._built, self._passed))

    def _materialized(self, by_asset: Mapping[str, Mapping[str, object]]) -> None:
        key = self._month.partition_key
        self._events += [
            dg.AssetMaterialization(asset, partition=key, metadata=dict(metadata))  # type: ignore[arg-type]
            for asset, metadata in by_asset.items()
        ]

    def _check(self) -> None:
        targets = self._targets()
        for checks in self._checks:
            of_index = look_at_index_now_and_then(self._pipeline, self._month, checks, self._passed)
            blocking = {check.spec.key for check in checks.counts if check.spec.blocking}
            outcomes = month_outcomes(self._pipeline, self._month, self.done, checks, of_index, self._passed)
            for key, outcome in outcomes:
                self._events.append(evaluation(self._month, key, outcome, targets.get(key.asset_key)))
                if key in blocking and not outcome["passed"]:
                    self.blocked = self.blocked or outcome["description"]

    def _targets(self) -> Targets:
        """The month's materializations, which are the run's last ones."""
        records = self._context.instance.get_records_for_run(
            self._context.run_id,
            of_type=dg.DagsterEventType.ASSET_MATERIALIZATION,
            limit=len(built_assets(self._built)),
            ascending=False,
        ).records
        return {
            record.asset_key: target(record)
            for record in records
            if record.asset_key is not None and record.partition_key == self._month.partition_key
        }


def _chosen(context: dg.OpExecutionContext, config: MonthsConfig, pipeline: Pipeline) -> list[Month]:
    """The months of the run, each once. Raises `Failure` if the configuration names something else."""
    if config.months:
        asked = list(dict.fromkeys(map(_month, config.months)))
    else:
        with pipeline.stores.database.connection() as connection:
            asked = documents.months_with_work(connection)
    shown = show_months(context.instance, pipeline)
    if gone := [month for month in asked if month not in shown]:
        context.log.info(f"months that have no documents, or have expired: {', '.join(map(str, gone))}")
    return [month for month in asked if month in shown]


def _month(name: str) -> Month:
    try:
        return Month.parse(name)
    except RagError as error:
        raise dg.Failure(f"{INDEX_MONTHS}: {one_line(error)}") from error


def _tag(context: dg.OpExecutionContext, months: Sequence[Month]) -> None:
    """Tag the run with its months: at first those that it is to run, at last those that it ran."""
    context.instance.add_run_tags(context.run_id, {MONTHS_TAG: months_tag(months) or _NO_MONTHS})


def _failure(runs: MonthRuns, failed_checks: Sequence[Month]) -> dg.Failure:
    reasons = [f"{month}: {reason}" for month, reason in runs.failed.items()]
    more = f"; {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    by_error = {str(month): reason for month, reason in runs.failed.items() if month not in failed_checks}
    return dg.Failure(
        f"failed months: {len(reasons)} ({'; '.join(reasons[:_LISTED])}{more})",
        metadata={FAILED: dg.MetadataValue.json(by_error), DONE: dg.MetadataValue.json([*map(str, runs.done)])},
    )
