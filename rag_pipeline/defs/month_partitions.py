"""The monthly partitions that every asset and check shares."""

import dagster as dg

from rag_pipeline.months import Month
from rag_pipeline.settings import load_settings

# `end_offset` adds the running month, which the definition leaves out by itself.
months = dg.MonthlyPartitionsDefinition(
    start_date=load_settings().first_month.partition_key, timezone="UTC", end_offset=1
)


def month_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Month:
    """The month of a run; a `Failure` that says what to do where the run has none ("Execute all" in the UI)."""
    if not context.has_partition_key:
        raise dg.Failure(
            "This works on one month: choose a partition, such as the running month, and run it again."
        )
    return Month.parse(context.partition_key)
