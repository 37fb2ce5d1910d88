"""The schedules: partitions ahead of time, the retirement of old months, and the nightly checks of all months.

They run without being switched on by hand; times are UTC.
"""

from collections.abc import Sequence

import dagster as dg

from rag_pipeline.defs.active_runs import months_in_runs
from rag_pipeline.defs.jobs import CHECK_MONTH
from rag_pipeline.indexing import retention
from rag_pipeline.indexing.create_partitions import create_partitions as create_missing_partitions
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings
from rag_pipeline.stores.postgres import schema

_DAILY = "10 0 * * *"
_AFTER_OTHERS = {"dagster/priority": "-1"}


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """All schedules; when the nightly checks run is a setting."""
    return [create_partitions, retire_months, nightly_checks(settings.nightly_cron)]


@dg.op(name="create_missing_partitions")
def _create_partitions(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    created = create_missing_partitions(pipeline)
    context.log.info(f"PostgreSQL: {_named(created.months)}")
    for collection, months in created.collections.items():
        context.log.info(f"{collection}: {_named(months)}")


@dg.job(
    name="create_partitions",
    description="Make the partitions of the running month and the next two, in PostgreSQL and in every collection.",
)
def create_partitions_job() -> None:
    _create_partitions()


@dg.op(name="retire_old_months")
def _retire_months(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    result = retention.apply_retention(pipeline)
    for line in result.busy:
        context.log.warning(line)
    context.log.info(f"retired {_named(result.retired)}; {result.restored} items are to be ingested again")


@dg.job(
    name="retire_months",
    description="Retire the months older than RAG_RETENTION_MONTHS in all stores, and make pending again what was "
    "retired and is to be kept now.",
)
def retire_months_job() -> None:
    _retire_months()


maintenance_jobs = [create_partitions_job, retire_months_job]

create_partitions = dg.ScheduleDefinition(
    name="create_partitions",
    job=create_partitions_job,
    cron_schedule=_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Partitions are there before the month begins.",
)


@dg.schedule(
    job=retire_months_job,
    cron_schedule=_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Where a month is too old by RAG_RETENTION_MONTHS, or half retired, or to be kept again.",
)
def retire_months(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.RunRequest | dg.SkipReason:
    if retention.retention_due(pipeline):
        return dg.RunRequest()
    kept = pipeline.settings.retention_months
    return dg.SkipReason(
        "RAG_RETENTION_MONTHS is not set" if kept is None else f"{kept} months are kept, none is older"
    )


def nightly_checks(cron: str) -> dg.ScheduleDefinition:
    """Asks for the checks of every month that has documents, oldest first, behind other runs."""

    @dg.schedule(
        name="nightly_checks",
        job_name=CHECK_MONTH,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="All checks of every month that has documents, oldest first.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        months = schema.months_with_documents(pipeline.stores.database)
        # A sweep that takes longer than a day is not asked for twice.
        waiting = months_in_runs(context.instance, only_job=CHECK_MONTH)
        night = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        requests = [
            dg.RunRequest(run_key=f"{night} {month}", partition_key=month.partition_key, tags=_AFTER_OTHERS)
            for month in months
            if month not in waiting
        ]
        return requests or dg.SkipReason("no month has documents")

    return nightly


def _named(months: Sequence[object]) -> str:
    return ", ".join(map(str, months)) or "none"
