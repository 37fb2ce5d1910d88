"""Dagster's event log in PostgreSQL, which can write the events of a step in one transaction.

Dagster writes each event alone: an insert, a notification that nothing listens to, and one to four statements for
assets and checks, each its own transaction. A month's run has sixty to ninety events: two fifths of what a
small edit cost.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import dagster as dg
import sqlalchemy as db
from dagster import AssetCheckEvaluation
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._serdes import serialize_value
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from rag_pipeline.errors import RagError, one_line

_Type = dg.DagsterEventType
_HELD = frozenset(
    {
        _Type.ASSET_CHECK_EVALUATION,
        _Type.ASSET_CHECK_EVALUATION_PLANNED,
        _Type.ASSET_MATERIALIZATION,
        _Type.ASSET_MATERIALIZATION_PLANNED,
        _Type.ENGINE_EVENT,
        _Type.HANDLED_OUTPUT,
        _Type.LOADED_INPUT,
        _Type.LOGS_CAPTURED,
        _Type.RESOURCE_INIT_STARTED,
        _Type.RESOURCE_INIT_SUCCESS,
        _Type.STEP_INPUT,
        _Type.STEP_OUTPUT,
        _Type.STEP_SUCCESS,
    }
)
"""What can wait for the run's next event of another type: the start of a step, a failure, the end of the run."""
_HELD_SECONDS = 1.0
_CHECK = ("asset_key", "check_name", "run_id", "partition")
_insert = insert(AssetCheckExecutionsTable)
_STORE_CHECKS = _insert.on_conflict_do_update(
    index_elements=_CHECK,
    set_={
        name: _insert.excluded[name]
        for name in (
            "execution_status",
            "evaluation_event",
            "evaluation_event_timestamp",
            "evaluation_event_storage_id",
            "materialization_event_storage_id",
        )
    },
)
"""Dagster inserts the row of each planned check, and updates it with its result: two or three statements a check."""
_STATUSES = {True: AssetCheckExecutionRecordStatus.SUCCEEDED, False: AssetCheckExecutionRecordStatus.FAILED}
_ENDS = frozenset({_Type.RUN_SUCCESS, _Type.RUN_FAILURE, _Type.RUN_CANCELED})


class StepEventLogStorage(PostgresEventLogStorage):
    """The event log. `hold_events` makes it write a run's events step by step, in their order."""

    def __init__(self, postgres_url: str) -> None:
        self._transaction = _Transaction()
        self._held: dict[str, list[EventLogEntry]] | None = None
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        # The storage whose place it takes has made the tables: no second look for them at each start.
        super().__init__(postgres_url, should_autocreate_tables=False)

    def hold_events(self) -> None:
        """Write together what a step reports, when it has ended or after a second, from now on.

        Only for a process that executes its runs itself: only there does every run come to an event that is not held.
        """
        self._held = self._held or {}

    @property
    def holds_events(self) -> bool:
        """Whether `hold_events` was called."""
        return self._held is not None

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, and those of its run that were held before it; or hold it."""
        with _in_one_line():
            self._store_or_hold(event)

    def _store_or_hold(self, event: EventLogEntry) -> None:
        if self._held is None or not event.run_id or event.run_id in self._ended:
            super().store_event(event)
            return
        kind = event.get_dagster_event().event_type if event.is_dagster_event else None
        with self._lock:
            held = self._held.setdefault(event.run_id, [])
            # Ids are to follow the times of the events: another process can evaluate the same check meanwhile.
            if kind in _HELD and (not held or event.timestamp - held[0].timestamp < _HELD_SECONDS):
                held.append(event)
                return
            self.store_event_batch([*held, event])  # If it fails, what was held is stored with the next one.
            del self._held[event.run_id]
            if kind in _ENDS:
                self._ended.add(event.run_id)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of any types in one transaction."""
        with self._connect() as connection, self._transaction.on(connection):
            inserted = connection.execute(
                self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
            )
            numbered = [(event, int(number)) for event, (number,) in zip(events, inserted, strict=True)]
            of_checks: dict[tuple[str, ...], dict[str, object]] = {}
            others = []
            for event, number in numbered:
                if row := self._of_check(event, number):
                    # Of several events of a check, the last one stays.
                    of_checks[tuple(str(row[column]) for column in _CHECK)] = row
                else:
                    others.append((event, number))
            # An upsert locks the row until the transaction ends: always in the same order.
            for event, number in sorted(others, key=_asset):
                self._store_details(connection, event, number)
            if of_checks:
                connection.execute(_STORE_CHECKS, [of_checks[check] for check in sorted(of_checks)])

    def _store_details(self, connection: db.Connection, event: EventLogEntry, number: int) -> None:
        """Store what the tables of assets and checks hold of an event, as `store_event` does."""
        if event.dagster_event is None:
            return
        if event.dagster_event_type in ASSET_EVENTS and event.dagster_event.asset_key:
            self._store_asset_event_tags(connection, [event], [number])
            self._store_asset_event(connection, event, number)
        if event.dagster_event_type in ASSET_CHECK_EVENTS:
            self.store_asset_check_event(event, number)

    def _of_check(self, event: EventLogEntry, number: int) -> dict[str, object] | None:
        """The row of a check of a partition that a run has planned or evaluated; None if the event is another."""
        if event.dagster_event is None or not event.run_id:
            return None
        status, target = AssetCheckExecutionRecordStatus.PLANNED, None
        data: AssetCheckEvaluation | AssetCheckEvaluationPlanned
        if event.dagster_event_type == _Type.ASSET_CHECK_EVALUATION:
            data = event.dagster_event.asset_check_evaluation_data
            partitions = [] if data.partition is None else [data.partition]
            status = _STATUSES[data.passed]
            target = data.target_materialization_data
        elif event.dagster_event_type == _Type.ASSET_CHECK_EVALUATION_PLANNED:
            data = event.dagster_event.asset_check_planned_data
            partitions = list(data.partitions_subset.get_partition_keys()) if data.partitions_subset else []
        else:
            return None
        if len(partitions) != 1:
            return None
        return {
            "asset_key": data.asset_key.to_string(),
            "check_name": data.check_name,
            "partition": partitions[0],
            "run_id": event.run_id,
            "execution_status": status.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),
            "evaluation_event_storage_id": number,
            "materialization_event_storage_id": target.storage_id if target else None,
        }

    def _connect(self) -> AbstractContextManager[db.Connection]:
        return self._transaction.joined() or super()._connect()


def write_events_by_step(instance: dg.DagsterInstance) -> None:
    """Make an instance fit for a process that executes its runs itself."""
    storage = instance.event_log_storage
    # A user's dagster.yaml can name another one.
    ours = storage if isinstance(storage, StepEventLogStorage) else None
    if ours and ours.holds_events:
        return
    # Pools the connections: a new one for every event would take most of the time of a small run.
    instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
    if ours:
        ours.hold_events()


class _Transaction(threading.local):
    """The transaction in which this thread writes a batch: what Dagster's own methods write becomes part of it."""

    _connection: db.Connection | None = None

    @contextmanager
    def on(self, connection: db.Connection) -> Iterator[None]:
        """Make one of Dagster's connections, which commit each statement, commit at the end.

        Another isolation level, as Dagster sets it in such a case, would do so too. If the server is gone, SQLAlchemy
        would then print a stack trace.
        """
        self._connection = connection
        try:
            connection.exec_driver_sql("BEGIN")
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            if not connection.invalidated:  # else the server has rolled it back
                connection.exec_driver_sql("ROLLBACK")
            raise
        finally:
            self._connection = None

    def joined(self) -> AbstractContextManager[db.Connection] | None:
        return None if self._connection is None else _lent(self._connection)


@contextmanager
def _lent(connection: db.Connection) -> Iterator[db.Connection]:
    yield connection


def reason(error: DBAPIError) -> str:
    """Return what PostgreSQL says is wrong, without the statement, its parameters, and what hints and guesses follow."""
    first, *_ = str(error.orig or error).strip().splitlines() or [""]
    return one_line(RagError(first)).rstrip(".")


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Leave of an error what PostgreSQL says: Dagster prints it, and the statement with the events fills screens."""
    try:
        yield
    except DBAPIError as error:
        error.args = (reason(error),)
        error.statement = error.params = None
        error.code = ""
        raise


def _asset(numbered: tuple[EventLogEntry, int]) -> str:
    event, _ = numbered
    key = event.dagster_event.asset_key if event.dagster_event else None
    return key.to_string() if key else ""
