"""The job that runs several months with little to do in one run.

Each month leaves what its own run would leave: a materialization of each asset and an evaluation of each check, with the
month as partition. Its own run would cost more than its work: ten steps, ninety events, and in the daemon a process.

A month that fails does not keep the others from being run; the run then fails at its end, and says which months did.
"""

import traceback
from collections.abc import Iterator, Sequence

import dagster as dg
from pydantic import Field
from sqlalchemy.exc import DBAPIError

from rag_pipeline.defs.check_history import last_passed
from rag_pipeline.defs.check_outcomes import Outcome, evaluation
from rag_pipeline.defs.jobs import INDEX_MONTHS
from rag_pipeline.defs.month_checks import (
    checks_of_collections,
    checks_of_tables,
    look_at_index_now_and_then,
    month_outcomes,
)
from rag_pipeline.defs.month_partitions import MONTHS_TAG, months_tag, show_months
from rag_pipeline.defs.month_steps import Metadata, chunks_step, documents_step, vectors_step
from rag_pipeline.errors import BusyError, RagError, StoreUnavailableError, one_line
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

_LISTED = 3

_Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


class MonthsConfig(dg.Config):
    """The months to run, such as `2025-01`. None: all that have pending work."""

    months: list[str] = Field(default_factory=list)


def config_of(months: Sequence[Month]) -> dict[str, object]:
    """Return the configuration of a run of these months."""
    return {"ops": {_OP: {"config": {"months": [str(month) for month in months]}}}}


def index_months_job(built: Sequence[VectorKind]) -> dg.JobDefinition:
    """Return the job, for the kinds of vectors that are built."""

    @dg.op(
        name=_OP,
        description="Brings one month after the other up to date with its sources, as index_month does, and evaluates "
        "all its checks.",
    )
    def index_each_month(
        context: dg.OpExecutionContext,
        config: MonthsConfig,
        pipeline: dg.ResourceParam[Pipeline],
        month_runs: dg.ResourceParam[MonthRuns],
    ) -> Iterator[_Event | dg.Output[None]]:
        shown = show_months(context.instance, pipeline)
        chosen = [month for month in _chosen(config, pipeline) if month in shown]
        if context.run.tags.get(MONTHS_TAG) != months_tag(chosen):
            context.instance.add_run_tags(context.run_id, {MONTHS_TAG: months_tag(chosen)})
        failed_checks: list[Month] = []
        for number, month in enumerate(chosen):
            if number:
                context.log.info(f"months: {number} of {len(chosen)}")
            one = _OneMonth(context.instance, pipeline, month, built)
            try:
                one.run()
                month_runs.end(month, one.done, one.blocked)
                failed_checks += [month] if one.blocked else []
            except BusyError as error:
                context.log.info(f"{month} is left to another run: {one_line(error)}")
            except StoreUnavailableError as error:
                yield from one.events
                month_runs.end(month, one.done, one_line(error))
                raise _failure(month_runs, failed_checks) from error
            except DBAPIError:
                raise  # Dagster's own storage, without which no month can be run.
            except Exception as error:  # The other months do not wait until this one's fault is mended.
                context.log.error("".join(traceback.format_exception(error)))
                month_runs.end(month, one.done, one_line(error))
            yield from one.events
        if len(month_runs.ended) < len(chosen):
            ended = [month for month in chosen if month in month_runs.ended]
            context.instance.add_run_tags(context.run_id, {MONTHS_TAG: months_tag(ended)})
        if month_runs.failed:
            raise _failure(month_runs, failed_checks)
        yield dg.Output(None)

    @dg.job(
        name=INDEX_MONTHS,
        description="Bring several months up to date with their sources in one run; verify the counts. For months with "
        "little to do: the sensor index_pending_months and `rag-pipeline ingest` choose them. Without months in its "
        "configuration it runs all that have pending work.",
    )
    def index_months() -> None:
        index_each_month()

    return index_months


class _OneMonth:
    """A month of the run, and what Dagster is to be told of it, as far as it came."""

    def __init__(
        self, instance: dg.DagsterInstance, pipeline: Pipeline, month: Month, built: Sequence[VectorKind]
    ) -> None:
        self._instance = instance
        self._pipeline = pipeline
        self._month = month
        self._built = built
        self._checks = (checks_of_tables(built), checks_of_collections(built))
        self.done = MonthRun()
        self.events: list[_Event] = []
        self.blocked = ""
        """What a check found that would have failed the month's own run."""

    def run(self) -> None:
        """Run the steps of the month, then its checks: under its lock, any month would look as if it were stuck."""
        pipeline, month, done = self._pipeline, self._month, self.done
        keys = [key for checks in self._checks for key in checks.keys]
        passed = last_passed(self._instance, month, keys)
        with pipeline.month_lock(month, _WAIT_SECONDS):
            self._materialized("documents", documents_step(pipeline, month, done))
            self._materialized("document_chunks", chunks_step(pipeline, month, done))
            of_collections = vectors_step(pipeline, month, done, self._built, self._built, passed)
        for asset, metadata in of_collections.items():
            self._materialized(asset, metadata)
        for checks in self._checks:
            of_index = look_at_index_now_and_then(pipeline, month, checks, passed)
            blocking = {check.spec.key for check in checks.counts if check.spec.blocking}
            for key, outcome in month_outcomes(pipeline, month, done, checks, of_index, passed):
                self._evaluated(key, outcome, key in blocking)

    def _materialized(self, asset: str, metadata: Metadata) -> None:
        self.events.append(
            dg.AssetMaterialization(asset, partition=self._month.partition_key, metadata=dict(metadata))
        )

    def _evaluated(self, key: dg.AssetCheckKey, outcome: Outcome, blocking: bool) -> None:
        self.events.append(evaluation(self._month, key, outcome))
        if blocking and not outcome["passed"]:
            self.blocked = self.blocked or outcome["description"]


def _chosen(config: MonthsConfig, pipeline: Pipeline) -> list[Month]:
    if config.months:
        return [_month(name) for name in config.months]
    with pipeline.stores.database.connection() as connection:
        return documents.months_with_work(connection)


def _month(name: str) -> Month:
    try:
        return Month.parse(name)
    except RagError as error:
        raise dg.Failure(f"index_months: {one_line(error)}") from error


def _failure(runs: MonthRuns, failed_checks: Sequence[Month]) -> dg.Failure:
    reasons = [f"{month}: {reason}" for month, reason in runs.failed.items()]
    more = f"; {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    by_error = {str(month): reason for month, reason in runs.failed.items() if month not in failed_checks}
    return dg.Failure(
        f"failed months: {len(reasons)} ({'; '.join(reasons[:_LISTED])}{more})",
        metadata={FAILED: dg.MetadataValue.json(by_error), DONE: dg.MetadataValue.json([*map(str, runs.done)])},
    )
