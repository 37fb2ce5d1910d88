"""The monthly partitions that all assets and checks share: the months that exist in PostgreSQL, in their order.

They are dynamic, because the data decide which months exist: a document of an older month adds one, an expired month
goes. Dagster keeps their keys in its instance. Whatever creates or drops the partitions of a month, or requests a run,
calls `show_months` first: Dagster refuses a run of a month that it does not know. In its UI anybody can add any key to
them; one that is not a month of the index goes at the next `show_months`.
"""

import logging
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

NOT_A_MONTH = "not_a_month"
"""Metadata of the failure of a run whose partition is not a month: what it is instead."""

_NAME = "months"
_LOCK_WAIT_SECONDS = 30

_logger = logging.getLogger(__name__)

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
        if mistyped := [key for key in shown if month_of_key(key) is None]:
            _logger.warning(
                "deleted from Dagster's list of months, in which they are written like %s: %s",
                Month.now().partition_key,
                ", ".join(map(repr, mistyped)),
            )
        # Dagster lists keys in the order in which they were added, so those after a new month are added again.
        for key in shown[same:]:
            instance.delete_dynamic_partition(_NAME, key)
        instance.add_dynamic_partitions(_NAME, wanted[same:])
    return set(map(Month.parse, wanted))


def _wanted(instance: dg.DagsterInstance, pipeline: Pipeline) -> list[str]:
    keys = instance.get_dynamic_partitions(_NAME)
    shown = [month for key in keys if (month := month_of_key(key)) is not None]
    return [month.partition_key for month in months_in_use(pipeline, shown)]


def month_of_key(key: str) -> Month | None:
    """Return the month whose partition has this key; None if it is no month's, as `2024-01` and `hello` are not."""
    month = _month(key)
    return month if month is not None and month.partition_key == key else None


def months_of_runs(runs: Iterable[dg.DagsterRun]) -> set[Month]:
    """Return the months of runs, without those of a generation that is not live."""
    return {month for run in runs for month in _months(run) if month is not None}


def _months(run: dg.DagsterRun) -> list[Month | None]:
    return [
        *map(_month, run.tags.get(MONTHS_TAG, "").split()),
        month_of_key(run.tags.get(PARTITION_TAG, "")),
    ]


def _month(key: str) -> Month | None:
    """The month that is written like this; None for what somebody has typed as a tag."""
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

    Raises `Failure` if the run has none, as "Execute all" in the UI starts it, or if its partition is not a month, as
    somebody can add one in the UI.
    """
    if not context.has_partition_key:
        raise dg.Failure(
            "This works on one month: choose a partition, such as the current month, and run it again."
        )
    key = context.partition_key
    month = month_of_key(key)
    if month is None:
        meant = _month(key) or Month.now()
        raise dg.Failure(
            f"The partition {key!r} is not a month: choose one of the list, written like {meant.partition_key}, and run "
            "it again. Months need not be added: the list has those of the index.",
            metadata={NOT_A_MONTH: key},
        )
    return month
