"""The monthly partitions that all assets and checks share: the months that exist in PostgreSQL, in their order.

They are dynamic, because the data decide which months exist: a document of an older month adds one, an expired month
goes. Dagster keeps their keys in its instance. Whatever creates or drops the partitions of a month, or requests a run,
calls `show_months` first: Dagster refuses a run of a month that it does not know.
"""

from collections.abc import Iterable

import dagster as dg

from rag_pipeline.errors import RagError
from rag_pipeline.indexing.create_partitions import months_in_use
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

PARTITION_TAG = "dagster/partition"
"""Dagster's tag for the partition of a run."""

MONTHS_TAG = "rag-pipeline/months"
"""The months of a run that has several, and no partition: those that it is to run; in the end, those that it ran."""

GENERATION = " of generation "
"""Part of the keys of what is built beside the live generation; see `next_generation`."""

_NAME = "months"
_LOCK_WAIT_SECONDS = 30

months = dg.DynamicPartitionsDefinition(name=_NAME)


def show_months(instance: dg.DagsterInstance, pipeline: Pipeline) -> set[Month]:
    """Make the months that Dagster knows those that are in use, and return them. Cheap if they are."""
    wanted = _wanted(instance, pipeline)
    if wanted == instance.get_dynamic_partitions(_NAME):
        return set(map(Month.parse, wanted))
    with advisory_lock(pipeline.stores.database, "the list of months in Dagster", _LOCK_WAIT_SECONDS):
        wanted, shown = _wanted(instance, pipeline), instance.get_dynamic_partitions(_NAME)
        same = 0
        while same < min(len(wanted), len(shown)) and wanted[same] == shown[same]:
            same += 1
        # Dagster lists keys in the order in which they were added, so those after a new month are added again.
        for key in shown[same:]:
            instance.delete_dynamic_partition(_NAME, key)
        instance.add_dynamic_partitions(_NAME, wanted[same:])
    return set(map(Month.parse, wanted))


def _wanted(instance: dg.DagsterInstance, pipeline: Pipeline) -> list[str]:
    shown = [Month.parse(key) for key in instance.get_dynamic_partitions(_NAME)]
    return [month.partition_key for month in months_in_use(pipeline, shown)]


def months_of_runs(runs: Iterable[dg.DagsterRun]) -> set[Month]:
    """Return the months of runs, without those of a generation that is not live."""
    return {month for run in runs for key in _keys(run) if (month := _month(key)) is not None}


def _keys(run: dg.DagsterRun) -> list[str]:
    several = run.tags.get(MONTHS_TAG, "")
    return [*several.split(), run.tags.get(PARTITION_TAG, "")]


def _month(key: str) -> Month | None:
    """The month of a partition; None for a generation's, another project's, or what somebody has typed as a tag."""
    try:
        return Month.parse(key)
    except RagError:
        return None


def months_tag(months: Iterable[Month]) -> str:
    """Return the value of `MONTHS_TAG` for a run of these months."""
    return " ".join(map(str, months))


def month_of(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> Month:
    """Return the month of a run.

    Raises `Failure` if the run has none, as "Execute all" in the UI starts it.
    """
    if not context.has_partition_key:
        raise dg.Failure(
            "This works on one month: choose a partition, such as the current month, and run it again."
        )
    return Month.parse(context.partition_key)
