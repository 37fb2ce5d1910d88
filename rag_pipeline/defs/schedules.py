"""The schedules: partitions created in advance, the expiry of old months and old history, nightly checks and evaluations.

They run by default; times are UTC.
"""

from collections.abc import Sequence

import dagster as dg
from dagster._core.storage.tags import CODE_LOCATION_TAG

from rag_pipeline.defs import run_history
from rag_pipeline.defs.jobs import CHECK_MONTH, is_in_runs, months_in_runs
from rag_pipeline.defs.month_partitions import show_months
from rag_pipeline.defs.search_quality import EVALUATE_SEARCH
from rag_pipeline.indexing import retention
from rag_pipeline.indexing.create_partitions import create_partitions as create_missing_partitions
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings
from rag_pipeline.stores.postgres import schema

_DAILY = "10 0 * * *"
_AFTER_OTHER_RUNS = {"dagster/priority": "-1"}


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return all schedules; the cron of the nightly ones is a setting."""
    cron = settings.nightly_cron
    return [create_partitions, expire_months, expire_history, nightly_checks(cron), nightly_evaluation(cron)]


@dg.op(name="create_missing_partitions")
def _create_partitions(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    created = create_missing_partitions(pipeline)
    show_months(context.instance, pipeline)
    context.log.info(f"PostgreSQL: created {_listed(created.months)}")
    for collection, months in created.collections.items():
        context.log.info(f"{collection}: created {_listed(months)}")


@dg.job(
    name="create_partitions",
    description="Create the partitions of the current and the next two months, in PostgreSQL and all collections.",
)
def create_partitions_job() -> None:
    _create_partitions()


@dg.op(name="expire_old_months")
def _expire_months(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    result = retention.apply_retention(pipeline)
    show_months(context.instance, pipeline)
    for line in result.busy:
        context.log.warning(line)
    context.log.info(f"expired {_listed(result.expired)}; {result.restored} items are pending again")


@dg.job(
    name="expire_months",
    description="Remove the months older than RAG_RETENTION_MONTHS from all stores. Expired months that are now "
    "within the retention become pending again.",
)
def expire_months_job() -> None:
    _expire_months()


@dg.op(name="delete_old_runs")
def _delete_old_runs(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    location = context.run.tags.get(CODE_LOCATION_TAG, run_history.CODE_LOCATION)
    expired = run_history.expire_history(
        context.instance,
        pipeline,
        location,
        progress=lambda runs: context.log.info(f"deleted {runs} runs"),
    )
    context.log.info(f"deleted {expired.runs} runs in all, and {expired.scans} scans of sources")


@dg.job(
    name="expire_history",
    description="Delete the runs of this code location that are older than RAG_HISTORY_DAYS, with their events, checks "
    "and logs. The last materialization and check of each month stay, and all evaluations of searches.",
)
def expire_history_job() -> None:
    _delete_old_runs()


maintenance_jobs = [create_partitions_job, expire_months_job, expire_history_job]

create_partitions = dg.ScheduleDefinition(
    name="create_partitions",
    job=create_partitions_job,
    cron_schedule=_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Creates a month's partitions before the month begins.",
)


@dg.schedule(
    job=expire_months_job,
    cron_schedule=_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Runs expire_months if a month is older than RAG_RETENTION_MONTHS, an expiry is unfinished, or an "
    "expired month is within the retention again.",
)
def expire_months(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.RunRequest | dg.SkipReason:
    """Request a run if there is anything to expire or to restore."""
    if retention.retention_due(pipeline):
        return dg.RunRequest()
    kept = pipeline.settings.retention_months
    return dg.SkipReason(
        "RAG_RETENTION_MONTHS is not set" if kept is None else f"months kept: {kept}; none is older"
    )


@dg.schedule(
    job=expire_history_job,
    cron_schedule=_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Runs expire_history, unless RAG_HISTORY_DAYS is 0.",
)
def expire_history(pipeline: dg.ResourceParam[Pipeline]) -> dg.RunRequest | dg.SkipReason:
    """Request a run if there is history to be deleted."""
    if not pipeline.settings.history_days:
        return dg.SkipReason("RAG_HISTORY_DAYS is 0: all runs are kept")
    return dg.RunRequest(tags=_AFTER_OTHER_RUNS)


def nightly_checks(cron: str) -> dg.ScheduleDefinition:
    """Return the schedule that requests the checks of every month with documents, at low priority."""

    @dg.schedule(
        name="nightly_checks",
        job_name=CHECK_MONTH,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Runs all checks of every month that has documents, oldest first.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        months = schema.months_with_documents(pipeline.stores.database)
        if not months:
            return dg.SkipReason("no month has documents")
        show_months(context.instance, pipeline)
        # The checks of all months can take longer than a day: those still queued are not requested again.
        queued = months_in_runs(context.instance, only_job=CHECK_MONTH)
        night = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        requests = [
            dg.RunRequest(run_key=f"{night} {month}", partition_key=month.partition_key, tags=_AFTER_OTHER_RUNS)
            for month in months
            if month not in queued
        ]
        return requests or dg.SkipReason("the checks of all months are still queued")

    return nightly


def nightly_evaluation(cron: str) -> dg.ScheduleDefinition:
    """Return the schedule that requests an evaluation of searches, at low priority."""

    @dg.schedule(
        name="nightly_evaluation",
        job_name=EVALUATE_SEARCH,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Evaluates searches, if there are judged queries.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.RunRequest | dg.SkipReason:
        from rag_pipeline.search.judged_queries import NOTHING_JUDGED
        from rag_pipeline.search.quality import is_due

        # After the last query is gone, one more evaluation forgets the reference and closes an alert.
        if not is_due(pipeline):
            return dg.SkipReason(NOTHING_JUDGED)
        if is_in_runs(context.instance, EVALUATE_SEARCH):
            return dg.SkipReason("an evaluation is still queued or running")
        night = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        return dg.RunRequest(run_key=night, tags=_AFTER_OTHER_RUNS)

    return nightly


def _listed(months: Sequence[object]) -> str:
    return ", ".join(map(str, months)) or "none"
