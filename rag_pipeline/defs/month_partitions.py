"""The monthly partitions that all assets and checks share."""

import dagster as dg

from rag_pipeline.months import Month
from rag_pipeline.settings import load_settings

PARTITION_TAG = "dagster/partition"
"""Dagster's tag for the partition of a run."""

# Without `end_offset` the definition stops before the current month.
months = dg.MonthlyPartitionsDefinition(
    start_date=load_settings().first_month.partition_key, timezone="UTC", end_offset=1
)


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
