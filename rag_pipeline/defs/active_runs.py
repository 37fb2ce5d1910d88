"""The runs that are queued or at work, by the month they work on."""

import dagster as dg

from rag_pipeline.months import Month

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def months_in_runs(
    instance: dg.DagsterInstance, *, only_job: str | None = None, without_job: str | None = None
) -> set[Month]:
    """The months that an unfinished run has, of any job, of one, or of all but one."""
    runs = instance.get_runs(dg.RunsFilter(job_name=only_job, statuses=_UNFINISHED))
    return {
        Month.parse(run.tags["dagster/partition"])
        for run in runs
        if "dagster/partition" in run.tags and run.job_name != without_job
    }
