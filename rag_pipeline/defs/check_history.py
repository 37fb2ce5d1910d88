"""What the checks of a month found the last time, which decides how much of it the next one looks at, and when it does."""

from collections.abc import Callable, Collection, Sequence
from typing import cast

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

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
    # Dagster has nothing public that answers for a partition, and nothing that leaves this run's own plans out. Nor has
    # it an index for the last rows of a partition: to look through all of a month that is edited every few minutes
    # would take longer from week to week.
    columns = AssetCheckExecutionsTable.c
    newest = db.select(db.func.max(AssetCheckExecutionsTable.alias().c.id)).scalar_subquery()
    latest = (
        db.select(db.func.max(columns.id))
        .where(
            columns.id > newest - _LOOKED_THROUGH,
            columns.asset_key.in_(_ASSETS),
            columns.partition == month.partition_key,
            columns.run_id != run_id,
        )
        .group_by(columns.asset_key, columns.check_name)
    )
    query = db.select(columns.asset_key, columns.check_name, columns.execution_status).where(
        columns.id.in_(latest)
    )
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as connection:
        rows = connection.execute(query).fetchall()
    passed = AssetCheckExecutionRecordStatus.SUCCEEDED.value
    return {(asset, check) for asset, check, status in rows if status == passed}


def months_left_unchecked(instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]) -> dict[Month, str]:
    """Return the months whose last run was canceled before it came to one of these checks, each with that run.

    Dagster shows such a check as skipped, and in its graph as not passed, until it is evaluated again. After a run that
    failed it says so, and the month is run again anyway.
    """
    columns = AssetCheckExecutionsTable.c
    newest = db.select(db.func.max(AssetCheckExecutionsTable.alias().c.id)).scalar_subquery()
    latest = (
        db.select(db.func.max(columns.id))
        .where(
            columns.id > newest - _LOOKED_THROUGH, columns.asset_key.in_(_ASSETS), columns.partition.is_not(None)
        )
        .group_by(columns.asset_key, columns.check_name, columns.partition)
    )
    query = db.select(columns.asset_key, columns.check_name, columns.partition, columns.run_id).where(
        columns.id.in_(latest), columns.execution_status == AssetCheckExecutionRecordStatus.PLANNED.value
    )
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as connection:
        rows = connection.execute(query).fetchall()
    asked = {(key.asset_key.to_string(), key.name) for key in checks}
    planned = {
        month: run_id
        for asset, check, partition, run_id in rows
        if (asset, check) in asked and (month := month_of_key(partition)) is not None
    }
    runs = instance.get_runs(dg.RunsFilter(run_ids=sorted(set(planned.values())))) if planned else []
    others = {run.run_id for run in runs if run.status != dg.DagsterRunStatus.CANCELED}
    return {month: run_id for month, run_id in planned.items() if run_id not in others}


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
