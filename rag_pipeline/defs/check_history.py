"""What the checks of a month found the last time, which decides how much of it the next one looks at, and when it does."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from sqlalchemy.sql.elements import ColumnElement

from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.defs.month_partitions import month_of_key
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS

Passed = Callable[[Month, dg.AssetCheckKey], bool]
"""Whether the last evaluation of a check of a month, before this run's, passed."""

_ASSETS = [dg.AssetKey(asset).to_string() for asset in built_assets(VECTOR_KINDS)]

_LOOKED_THROUGH = 20_000
"""Evaluations, of all months together: those of about a thousand runs."""


def passed_before(instance: dg.DagsterInstance, run_id: str) -> Passed:
    """Answer for a run. All checks of a month are looked up at once, at the first question about it.

    A run that planned a check and never evaluated it counts as one that did not pass, and so does a check that was not
    evaluated since many others were.
    """
    sound: dict[Month, set[tuple[str, str]]] = {}

    def passed(month: Month, check: dg.AssetCheckKey) -> bool:
        if month not in sound:
            sound[month] = _sound_before(instance, run_id, month)
        return (check.asset_key.to_string(), check.name) in sound[month]

    return passed


def _sound_before(instance: dg.DagsterInstance, run_id: str, month: Month) -> set[tuple[str, str]]:
    # Dagster has nothing public that answers for a partition, and nothing that leaves this run's own plans out.
    columns = AssetCheckExecutionsTable.c
    rows = _last_with(
        instance,
        AssetCheckExecutionRecordStatus.SUCCEEDED,
        [columns.asset_key, columns.check_name],
        columns.partition == month.partition_key,
        columns.run_id != run_id,
    )
    return {(row.asset_key, row.check_name) for row in rows}


def months_left_unchecked(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], shown: Collection[Month]
) -> dict[Month, str]:
    """Return the months to be checked so that Dagster shows the state of these checks again, each with the reason.

    A run plans its checks, and one that ends before it has come to them leaves them as skipped or not executed. So are
    the months whose last run was canceled; after a failed run that is right, and the month is run again anyway. For its
    graph Dagster takes the last row of a check, whatever partition it is of: if it is of none that is `shown`, such as
    one that somebody mistyped, nothing would follow, and any month's checks take its place.
    """
    columns = AssetCheckExecutionsTable.c
    asked = {(key.asset_key.to_string(), key.name) for key in checks}
    of_months = {
        month: row.run_id
        for row in _planned_last(instance, columns.asset_key, columns.check_name, columns.partition)
        if (row.asset_key, row.check_name) in asked and (month := month_of_key(row.partition or "")) in shown
    }
    canceled = _ended(instance, of_months.values(), dg.DagsterRunStatus.CANCELED)
    left = {
        m: f"run {run} was canceled before the checks" for m, run in of_months.items() if m and run in canceled
    }
    if left or not shown:
        return left
    of_others = [
        row.run_id
        for row in _planned_last(instance, columns.asset_key, columns.check_name)
        if (row.asset_key, row.check_name) in asked and month_of_key(row.partition or "") not in shown
    ]
    ended = _ended(instance, of_others, *FINISHED_STATUSES)
    return {max(shown): f"run {run} of no month ended before the checks" for run in sorted(ended)[:1]}


def _planned_last(instance: dg.DagsterInstance, *grouped: Any) -> list[Any]:
    """The last row of each group, where it is of a check that was planned and not evaluated."""
    return _last_with(instance, AssetCheckExecutionRecordStatus.PLANNED, grouped)


def _last_with(
    instance: dg.DagsterInstance,
    status: AssetCheckExecutionRecordStatus,
    grouped: Sequence[Any],
    *conditions: ColumnElement[bool],
) -> list[Any]:
    """The last row of each group among those that meet the conditions, where it has this status.

    Dagster has no index for the last rows of a partition, and to look through all of a month that is edited every few
    minutes would take longer from week to week.
    """
    columns = AssetCheckExecutionsTable.c
    newest = db.select(db.func.max(AssetCheckExecutionsTable.alias().c.id)).scalar_subquery()
    latest = (
        db.select(db.func.max(columns.id))
        .where(columns.id > newest - _LOOKED_THROUGH, columns.asset_key.in_(_ASSETS), *conditions)
        .group_by(*grouped)
    )
    query = db.select(columns.asset_key, columns.check_name, columns.partition, columns.run_id).where(
        columns.id.in_(latest), columns.execution_status == status.value
    )
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as connection:
        return list(connection.execute(query))


def _ended(instance: dg.DagsterInstance, run_ids: Iterable[str], *statuses: dg.DagsterRunStatus) -> set[str]:
    """Those of these runs that have ended like this, or were deleted."""
    asked = set(run_ids)
    runs = instance.get_runs(dg.RunsFilter(run_ids=sorted(asked))) if asked else []
    return asked - {run.run_id for run in runs if run.status not in statuses}


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
