"""What the checks of a month found the last time."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecordStatus,
)

from rag_pipeline.months import Month


def passed_last(instance: dg.DagsterInstance, month: Month, asset: str, checks: Sequence[str]) -> bool:
    """Whether the last evaluation of each of these checks for a month passed; False if there is none."""
    return all(_passed_last(instance, month, dg.AssetCheckKey(dg.AssetKey(asset), check)) for check in checks)


def _passed_last(instance: dg.DagsterInstance, month: Month, check: dg.AssetCheckKey) -> bool:
    # Dagster has nothing public that answers for a partition.
    history = instance.event_log_storage.get_asset_check_execution_history(
        check,
        limit=1,
        status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
        partition_filter=PartitionKeyFilter(key=month.partition_key),
    )
    return bool(history) and history[0].status == AssetCheckExecutionRecordStatus.SUCCEEDED
