"""Dagster's history of this code location: runs, their events and checks. What is old and says nothing of today goes.

Dagster itself deletes no run. A run that changes one document leaves 145 KB, the nightly checks as much for each month.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import cast

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.tags import CODE_LOCATION_TAG
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy.sql.elements import ColumnElement

from rag_pipeline.defs.assets import source_key
from rag_pipeline.defs.search_quality import ASSET as SEARCH_QUALITY
from rag_pipeline.errors import BusyError
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import sources
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

CODE_LOCATION = "rag_pipeline"
"""The code location of `workspace.yaml`, and of the runs of `rag-pipeline ingest`."""

_Type = dg.DagsterEventType
_SHOWN = [
    kind.value
    for kind in (
        _Type.ASSET_MATERIALIZATION,
        _Type.ASSET_MATERIALIZATION_PLANNED,
        _Type.ASSET_OBSERVATION,
        _Type.ASSET_FAILED_TO_MATERIALIZE,
    )
]
"""From the last event of each of these types Dagster tells the state of an asset's partition."""
_DISTINGUISHED_BY = {SqlEventLogStorageTable: "dagster_event_type", AssetCheckExecutionsTable: "check_name"}
_PLOTTED = dg.AssetKey(SEARCH_QUALITY).to_string()
_RUNLESS = ""
"""Dagster's run id for what is reported outside of runs: the scans of sources."""
_BATCH = 500
"""Runs that are deleted together: about 30,000 events."""
_OFTEN = timedelta(hours=1)
_CURSOR = "rag_pipeline/history"
_LOCK = "Dagster's history"


@dataclass(frozen=True)
class Expired:
    """What was deleted."""

    runs: int = 0
    scans: int = 0
    """Scans of sources; what their checks found goes with them."""


def expire_history(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    location: str,
    *,
    at_most: float = inf,
    progress: Callable[[int], None] = lambda runs: None,
) -> Expired:
    """Delete what is older than `RAG_HISTORY_DAYS`, about `at_most` runs; `progress` is told how many so far.

    Kept are runs that have not finished, those that hold the last materialization or check of a partition, and the
    evaluations of searches, which are plotted over time. If another process is doing this, nothing is done.
    """
    before = _oldest_kept(pipeline)
    if before is None or not _can_expire(instance):
        return Expired()
    deleted = 0
    with suppress(BusyError), advisory_lock(pipeline.stores.database, _LOCK, 0):
        for run_ids in _old_runs(instance, before, location):
            _delete_runs(instance, run_ids)
            deleted += len(run_ids)
            progress(deleted)
            if deleted >= at_most:
                break
        return Expired(deleted, _delete_scans(instance, pipeline, before))
    return Expired(deleted)


def is_due_again(instance: dg.DagsterInstance) -> bool:
    """Whether it is an hour since this last said so: for who has no daemon that expires the history at night."""
    storage = cast(SqlRunStorage, instance.run_storage)
    last = storage.get_cursor_values({_CURSOR}).get(_CURSOR)
    now = datetime.now(UTC)
    if last is not None and now - datetime.fromisoformat(last) < _OFTEN:
        return False
    storage.set_cursor_values({_CURSOR: now.isoformat()})
    return True


def _oldest_kept(pipeline: Pipeline) -> datetime | None:
    """Return the moment before which history is deleted; None if all of it is kept."""
    days = pipeline.settings.history_days
    return datetime.now(UTC) - timedelta(days=days) if days else None


def _can_expire(instance: dg.DagsterInstance) -> bool:
    """Other storages keep the events of each run in a place of its own."""
    return isinstance(instance.event_log_storage, PostgresEventLogStorage)


def _old_runs(instance: dg.DagsterInstance, before: datetime, location: str) -> Iterator[list[str]]:
    """The ids of the runs to be deleted, oldest first, in batches."""
    runs, tags = RunsTable.c, RunTagsTable.c
    of_location = (
        db.select(tags.run_id)
        .where(tags.run_id == runs.run_id)
        .where(tags.key == CODE_LOCATION_TAG, tags.value.in_({location, CODE_LOCATION}))
    )
    query = (
        db.select(runs.id, runs.run_id)
        .where(runs.status.in_([status.value for status in FINISHED_STATUSES]))
        .where(runs.create_timestamp < before.replace(tzinfo=None))
        .where(of_location.exists())
        .order_by(runs.id)
        .limit(_BATCH)
    )
    last = 0
    while True:
        with cast(SqlRunStorage, instance.run_storage).connect() as connection:
            page = connection.execute(query.where(runs.id > last)).fetchall()
        if not page:
            return
        shown = _shown(instance, [run_id for _, run_id in page])
        if old := [run_id for _, run_id in page if run_id not in shown]:
            yield old
        last = page[-1][0]


def _shown(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> set[str]:
    """Those of the runs from which the UI tells the present state of an asset, a partition or a check."""
    events, checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    last_events = (
        db.select(events.run_id)
        .where(events.run_id.in_(run_ids), events.asset_key.is_not(None))
        .where(events.dagster_event_type.in_(_SHOWN))
        .where(db.or_(events.asset_key == _PLOTTED, _is_last(SqlEventLogStorageTable)))
    )
    last_checks = (
        db.select(checks.run_id).where(checks.run_id.in_(run_ids)).where(_is_last(AssetCheckExecutionsTable))
    )
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as connection:
        return set(connection.execute(db.union(last_events, last_checks)).scalars())


def _is_last(table: db.Table) -> ColumnElement[bool]:
    """Whether no newer row is of the same type or check, of the same asset, and of the same partition or of none."""
    newer = table.alias()
    name = _DISTINGUISHED_BY[table]
    of_asset = db.and_(
        newer.c.asset_key == table.c.asset_key, newer.c[name] == table.c[name], newer.c.id > table.c.id
    )
    of_partition = db.select(newer.c.id).where(of_asset, newer.c.partition == table.c.partition).correlate(table)
    of_none = db.select(newer.c.id).where(of_asset, newer.c.partition.is_(None)).correlate(table)
    # Apart, because no index answers for both at once.
    return db.case((table.c.partition.is_(None), db.not_(of_none.exists())), else_=db.not_(of_partition.exists()))


def _delete_runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Delete runs with all that is theirs. The runs go last: what an interrupted call leaves, the next one finds."""
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    events, checks = SqlEventLogStorageTable, AssetCheckExecutionsTable
    of_runs = db.select(events.c.id).where(events.c.run_id.in_(run_ids))
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as connection:
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(of_runs)))
        connection.execute(checks.delete().where(checks.c.run_id.in_(run_ids)))
        connection.execute(events.delete().where(events.c.run_id.in_(run_ids)))
    with cast(SqlRunStorage, instance.run_storage).connect() as connection:
        connection.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(run_ids)))  # Their tags go with them.


def _delete_scans(instance: dg.DagsterInstance, pipeline: Pipeline, before: datetime) -> int:
    """Delete what sources reported outside of runs, but for the last of each kind."""
    with pipeline.stores.database.connection() as connection:
        keys = [source_key(name).to_string() for name in sources.names(connection)]
    events, checks, tags = SqlEventLogStorageTable, AssetCheckExecutionsTable, AssetEventTagsTable
    moment = before.replace(tzinfo=None)

    def old(table: db.Table, written: str) -> ColumnElement[bool]:
        of_scans = db.and_(table.c.run_id == _RUNLESS, table.c.asset_key.in_(keys))
        return db.and_(of_scans, table.c[written] < moment, db.not_(_is_last(table)))

    old_scans, old_checks = old(events, "timestamp"), old(checks, "create_timestamp")
    # The event of a check names no asset.
    evaluations = db.select(checks.c.evaluation_event_storage_id).where(old_checks)
    with cast(SqlEventLogStorage, instance.event_log_storage).index_connection() as log:
        log.execute(tags.delete().where(tags.c.event_id.in_(db.select(events.c.id).where(old_scans))))
        scans = log.execute(events.delete().where(old_scans)).rowcount
        log.execute(events.delete().where(events.c.id.in_(evaluations)))
        log.execute(checks.delete().where(old_checks))
    return scans
