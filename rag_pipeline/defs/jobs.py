"""The jobs of one month, and what unfinished runs are about."""

from datetime import datetime

import dagster as dg

from rag_pipeline.defs.assets import GROUP
from rag_pipeline.defs.month_partitions import PARTITION_TAG, months, months_of_runs
from rag_pipeline.months import Month

INDEX_MONTH = "index_month"
INDEX_MONTHS = "index_months"
"""Several months in one run, see `index_months`."""
CHECK_MONTH = "check_month"

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

index_month = dg.define_asset_job(
    INDEX_MONTH,
    selection=dg.AssetSelection.groups(GROUP),
    description="Bring one month's documents, chunks and vectors up to date with the sources, and run the month's checks.",
)

check_month = dg.define_asset_job(
    CHECK_MONTH,
    # Not those of the sources, which have no months.
    selection=dg.AssetSelection.groups(GROUP) - dg.AssetSelection.groups(GROUP).without_checks(),
    # Dagster infers a job's partitions from its assets; this job has none.
    config=dg.PartitionedConfig(partitions_def=months, run_config_for_partition_key_fn=lambda month: {}),
    description="Run all checks of one month, and nothing else.",
)


def months_in_runs(
    instance: dg.DagsterInstance, *, only_job: str | None = None, except_job: str | None = None
) -> set[Month]:
    """Return the months of the runs that are queued or running: of all jobs, of one, or of all but one."""
    runs = instance.get_runs(dg.RunsFilter(job_name=only_job, statuses=_UNFINISHED))
    return months_of_runs(run for run in runs if run.job_name != except_job)


def partitions_in_runs(instance: dg.DagsterInstance, job: str) -> list[str]:
    """Return the partitions of the runs of a job that are queued or running."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=_UNFINISHED))
    return [run.tags[PARTITION_TAG] for run in runs if PARTITION_TAG in run.tags]


def is_in_runs(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of a job is queued or running."""
    return bool(instance.get_runs(dg.RunsFilter(job_name=job, statuses=_UNFINISHED), limit=1))


def months_failed_since(instance: dg.DagsterInstance, moment: datetime) -> set[Month]:
    """Return the months of the runs that were to bring months up to date, and have failed since a moment."""
    failed = [dg.DagsterRunStatus.FAILURE]
    return months_of_runs(
        run
        for job in (INDEX_MONTH, INDEX_MONTHS)
        for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=failed, updated_after=moment))
    )


def succeeded_since(instance: dg.DagsterInstance, month: Month, moment: datetime) -> bool:
    """Whether a run that was to bring a month up to date has succeeded since a moment."""
    done = [dg.DagsterRunStatus.SUCCESS]
    own = {PARTITION_TAG: month.partition_key}
    return bool(
        instance.get_runs(
            dg.RunsFilter(job_name=INDEX_MONTH, tags=own, statuses=done, updated_after=moment), limit=1
        )
    ) or month in months_of_runs(
        instance.get_runs(dg.RunsFilter(job_name=INDEX_MONTHS, statuses=done, updated_after=moment))
    )
