"""What the checks of a month found the last time, which decides how much of it the next one looks at."""

from collections.abc import Callable, Sequence

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.months import Month

Passed = Callable[[Month, dg.AssetCheckKey], bool]
"""Whether the last evaluation of a check of a month, before this run's, passed."""

_PASSED = AssetCheckExecutionRecordStatus.SUCCEEDED


def passed_before(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Passed:
    """What a month's run asks, check by check."""

    def passed(month: Month, check: dg.AssetCheckKey) -> bool:
        # Dagster has nothing public that answers for a partition. This run's own record, of a planned check, is the
        # newest.
        history = context.instance.event_log_storage.get_asset_check_execution_history(
            check, limit=2, partition_filter=PartitionKeyFilter(key=month.partition_key)
        )
        before = next((record for record in history if record.run_id != context.run.run_id), None)
        return before is not None and before.status == _PASSED

    return passed


def last_passed(instance: dg.DagsterInstance, month: Month, checks: Sequence[dg.AssetCheckKey]) -> Passed:
    """Ask for all checks of a month at once, in a run that has not planned them."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        checks, PartitionKeyFilter(key=month.partition_key)
    )
    sound = {key for key, record in latest.items() if record.status == _PASSED}
    return lambda asked, check: asked == month and check in sound


def if_enough(
    passed: Passed, touched: TouchedChunks | None, checks: Sequence[dg.AssetCheckKey]
) -> TouchedChunks | None:
    """Return what a run touched if these checks need look at nothing else: in the run before, each of them passed.

    After one that failed, a run that has nothing to do with the findings would close the alerts; after one that ended
    without them, nobody has looked at what it wrote.
    """
    if touched is None or touched.too_many:
        return None
    return touched if all(passed(touched.month, check) for check in checks) else None
