"""Checks, runs, sensors and schedules as observations for the alerts, polled from Dagster's event log and ticks.

Events are read in the order of their ids, all types together, so one number records the position in the log. An id
is assigned before its event is committed, so an event can appear behind that position: the last ones before it are
read again every time, and events younger than `SETTLE_SECONDS` wait for the next tick. Reading an event twice is
harmless.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

import dagster as dg
import sqlalchemy as db
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickData, TickStatus
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.schedules import SqlScheduleStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._serdes import deserialize_value
from dagster._utils.error import SerializableErrorInfo

from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.consistency.findings import COMMAND
from rag_pipeline.defs.index_months import DONE, FAILED
from rag_pipeline.defs.jobs import CHECK_MONTH, INDEX_MONTH, INDEX_MONTHS
from rag_pipeline.defs.month_partitions import NOT_A_MONTH, PARTITION_TAG, month_of_key, months_of_runs
from rag_pipeline.defs.repair_job import REPAIR_MONTH
from rag_pipeline.defs.sensors import NOT_DUE
from rag_pipeline.defs.source_check import CHECK as SOURCE_CHECK
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.postgres.alert_outbox import Subject

LATE_EVENTS = 200
LATE_SECONDS = 3600.0
"""No transaction stays open this long: older events need not be read again at every tick."""
SETTLE_SECONDS = 2.0
_PAGE = 500
LONGEST_TICK_SECONDS = 180.0
"""Dagster's limit is 60 s. A tick that is older and has no result never gets one: its daemon is gone."""
_TICK_PAGE = 5000
_TICK_ENDS = (TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE)
_RUN_TYPES = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
_OUR_ERROR = re.compile(r"^rag_pipeline\.errors\.\w+: ")
_TOO_LONG = re.compile(r"timed out due to taking longer than (\d+) seconds")
_MONTHLY_ASSETS = {dg.AssetKey(asset) for asset in built_assets(VECTOR_KINDS)}
_ADHOC_JOB = "__ASSET_JOB"
"""Dagster's job name for a run of assets selected by hand."""
_MARKED_AS_FAILED = "This run has been marked as failed from outside the execution context."
_NO_WORKER = "Detected run worker status"
"""Dagster's messages of a run whose process is gone."""
_BY_HAND = "mend what it says; you need not start it again, the month is run by itself until it succeeds"


@dataclass(frozen=True)
class Page:
    """A page of the event log."""

    observations: list[Observation]
    read_up_to: int
    """The id after which the next page starts."""
    more: bool


@dataclass(frozen=True)
class TickPage:
    """The next ticks, and the id after which the page that follows starts."""

    observations: list[Observation]
    read_up_to: int


def log_name(instance: dg.DagsterInstance) -> str:
    """Return the name of the event storage: ids are unique within it, and a new storage starts at 1 again."""
    return cast(SqlRunStorage, instance.run_storage).get_run_storage_id()


def read_events(
    instance: dg.DagsterInstance, after: int, now: datetime, built: Sequence[VectorKind] = VECTOR_KINDS
) -> Page:
    """Return check evaluations and ends of runs after an event's id, and those just before it that can be late.

    `built` are the kinds of vectors that are built: a run that somebody starts by hand for all assets of a month is as
    good as its job.
    """
    late: list[dg.EventLogRecord] = []
    new: list[dg.EventLogRecord] = []
    horizon = None
    for event_type in (dg.DagsterEventType.ASSET_CHECK_EVALUATION, *_RUN_TYPES):
        late += _records(instance, event_type, before=after + 1, limit=LATE_EVENTS) if after else []
        found = _records(instance, event_type, after=after, limit=_PAGE)
        new += found
        if len(found) == _PAGE:
            horizon = min(horizon or found[-1].storage_id, found[-1].storage_id)
    new = _settled(sorted(new, key=lambda record: record.storage_id), horizon, now)
    late = [record for record in late if abs(now.timestamp() - record.timestamp) < LATE_SECONDS]
    observations = list(_observations(instance, [*late, *new], built))
    return Page(observations, new[-1].storage_id if new else after, more=horizon is not None and bool(new))


def read_ticks(instance: dg.DagsterInstance, after: int | None, now: datetime) -> TickPage:
    """Return the finished ticks of all sensors and schedules after a tick's id, without those that were not due.

    One query for all of them: a large deployment has thousands. Without an id it begins with the last ticks.
    """
    storage = cast(SqlScheduleStorage, instance.schedule_storage)
    start = after - LATE_EVENTS if after is not None else _newest_tick(storage) - _TICK_PAGE
    columns = JobTickTable.c
    query = (
        db.select(columns.id, columns.tick_body).where(columns.id > start).order_by(columns.id).limit(_TICK_PAGE)
    )
    ticks = [InstigatorTick(number, deserialize_value(body, TickData)) for number, body in storage.execute(query)]
    read_up_to = ticks[-1].tick_id if ticks else after or 0
    # A tick that is running is read again, with its result, under the id that it has now.
    if running := [tick.tick_id for tick in ticks if _is_running(tick, now)]:
        read_up_to = running[0] - 1
    states = {state.selector_id: state for state in instance.all_instigator_state()}
    observed = [
        _tick_observed(states[tick.selector_id], tick)
        for tick in ticks
        if tick.selector_id in states
        and tick.status in _TICK_ENDS
        and not (tick.status == TickStatus.SKIPPED and NOT_DUE in (tick.skip_reason or ""))
    ]
    return TickPage(observed, max(read_up_to, after or 0))


def _newest_tick(storage: SqlScheduleStorage) -> int:
    [(newest,)] = storage.execute(db.select(db.func.max(JobTickTable.c.id)))
    return newest or 0


def _is_running(tick: InstigatorTick, now: datetime) -> bool:
    """Whether a tick will still get its result."""
    return tick.status == TickStatus.STARTED and now.timestamp() - tick.timestamp < LONGEST_TICK_SECONDS


def _records(
    instance: dg.DagsterInstance,
    event_type: dg.DagsterEventType,
    limit: int,
    after: int | None = None,
    before: int | None = None,
) -> Sequence[dg.EventLogRecord]:
    """Return the events of a type: the first ones after an id, or the last ones before it.

    Evaluations are read from the storage: nothing else lists those of all checks and partitions by id, and the
    instance's own `get_event_records` is deprecated. Storage that is sharded by run (SQLite) does not support it.
    """
    if event_type in _RUN_TYPES:
        runs = dg.RunStatusChangeRecordsFilter(event_type, after_storage_id=after, before_storage_id=before)  # type: ignore[arg-type]
        return instance.fetch_run_status_changes(runs, limit=limit, ascending=after is not None).records
    events = dg.EventRecordsFilter(event_type, after_cursor=after, before_cursor=before)
    return instance.event_log_storage.get_event_records(events, limit=limit, ascending=after is not None)


def _settled(records: list[dg.EventLogRecord], horizon: int | None, now: datetime) -> list[dg.EventLogRecord]:
    """Return the records up to the horizon, and before the first one so recent that an earlier one may be missing.

    A record dated in the future comes from a machine whose clock is wrong; it counts as settled.
    """
    for n, record in enumerate(records):
        age = now.timestamp() - record.timestamp
        if (horizon is not None and record.storage_id > horizon) or 0 <= age < SETTLE_SECONDS:
            return records[:n]
    return records


def _observations(
    instance: dg.DagsterInstance, records: Sequence[dg.EventLogRecord], built: Sequence[VectorKind]
) -> Iterator[Observation]:
    all_of_a_month = {dg.AssetKey(asset) for asset in built_assets(built)}
    shown = {record.run_id for record in records if record.event_type in _RUN_TYPES or not _passed(record)}
    runs = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=sorted(shown)))} if shown else {}
    for record in records:
        if record.event_type not in _RUN_TYPES:
            if not _failed_without_month(_event(record).asset_check_evaluation_data):
                yield _check_observed(record, runs.get(record.run_id))
        elif (run := runs.get(record.run_id)) is None:
            continue
        elif run.job_name == INDEX_MONTHS:
            yield from _months_observed(instance, record, run)
        elif not (
            _lacks_its_month(run, record)
            or _told(_event(record), NOT_A_MONTH) is not None
            or _failed_by_checks(instance, record)
        ):
            job = _monthly_job(run)
            if job is None:
                yield _run_observed(record, run, _run_name(run))
            elif not run.asset_selection and not run.asset_check_selection:
                yield _run_observed(record, run, job)
            elif record.event_type == dg.DagsterEventType.RUN_FAILURE:
                yield _run_observed(record, run, job, _BY_HAND)
            elif all_of_a_month <= (run.asset_selection or set()):
                yield _run_observed(record, run, job)


def _passed(evaluation: dg.EventLogRecord) -> bool:
    return _event(evaluation).asset_check_evaluation_data.passed


def _failed_without_month(evaluation: dg.AssetCheckEvaluation) -> bool:
    """Whether a monthly check failed in a run without a month: its evaluations of months report and close the alert."""
    return not evaluation.passed and evaluation.partition is None and evaluation.asset_key in _MONTHLY_ASSETS


def _lacks_its_month(run: dg.DagsterRun, end: dg.EventLogRecord) -> bool:
    """Whether a run failed for lack of the month that it needs: no run of a month would close an alert."""
    if end.event_type != dg.DagsterEventType.RUN_FAILURE or PARTITION_TAG in run.tags:
        return False
    selected = {*(run.asset_selection or ()), *(key.asset_key for key in run.asset_check_selection or ())}
    return run.job_name in (INDEX_MONTH, CHECK_MONTH, REPAIR_MONTH) or bool(selected & _MONTHLY_ASSETS)


def _monthly_job(run: dg.DagsterRun) -> str | None:
    """Return the job whose success makes up for a failure of a run; None if it is no run of a month of ours.

    Which assets of the month somebody has selected makes no difference: nobody selects the same ones again. So a part
    that failed is a failure of the month, whose own run closes the alert, and a part that succeeded says nothing.
    """
    if run.job_name not in (_ADHOC_JOB, INDEX_MONTH, CHECK_MONTH) or month_of_key(_partition(run)) is None:
        return None
    if _MONTHLY_ASSETS & (run.asset_selection or set()):
        return INDEX_MONTH
    if any(key.asset_key in _MONTHLY_ASSETS for key in run.asset_check_selection or ()):
        return CHECK_MONTH
    return run.job_name if run.job_name != _ADHOC_JOB and not run.asset_selection else None


def _partition(run: dg.DagsterRun) -> str:
    return run.tags.get(PARTITION_TAG, "")


def _check_observed(record: dg.EventLogRecord, run: dg.DagsterRun | None) -> Observation:
    """Observe a check of a month. Its page is the evaluation in its run: the check's own shows any month's latest."""
    evaluation = _event(record).asset_check_evaluation_data
    asset, name = evaluation.asset_key, evaluation.check_name
    # Items that cannot be read are reported once, by `quarantined_documents` on their month.
    passed = evaluation.passed or (name == SOURCE_CHECK and evaluation.severity == dg.AssetCheckSeverity.WARN)
    advice = evaluation.metadata.get("what_to_do")
    what_to_do = str(advice.value) if advice is not None and not evaluation.passed else ""
    if evaluation.partition and record.run_id:
        event = f"'{name}' on '{asset.to_user_string()}'"
        path = f"/runs/{record.run_id}?logs={quote(event)}"
    else:
        path = f"/assets/{'/'.join(quote(part, safe='') for part in asset.path)}?view=checks&checkDetail={quote(name)}"
    return Observation(
        Subject("check", f"{name} on {asset.to_user_string()}", evaluation.partition or ""),
        record.storage_id,
        passed,
        _moment(record.timestamp),
        warning=evaluation.severity == dg.AssetCheckSeverity.WARN,
        description=" ".join((evaluation.description or "").split()),
        what_to_do=" ".join(what_to_do.split()),
        path=path,
        repair_path=f"/locations/{_location(run)}/jobs/{REPAIR_MONTH}" if COMMAND in what_to_do else "",
    )


def _location(run: dg.DagsterRun | None) -> str:
    """Return the code location of a run as the UI's paths name it."""
    if run is None or run.remote_job_origin is None:
        return "rag_pipeline"
    return _place(
        run.remote_job_origin.repository_origin.code_location_origin.location_name,
        run.remote_job_origin.repository_origin.repository_name,
    )


def _place(location: str, repository: str) -> str:
    return quote(location if repository == "__repository__" else f"{repository}@{location}")


def _run_observed(record: dg.EventLogRecord, run: dg.DagsterRun, name: str, what_to_do: str = "") -> Observation:
    """Observe a run as its job and month: a run and its retries, by Dagster or by a sensor, alert once."""
    passed = record.event_type == dg.DagsterEventType.RUN_SUCCESS
    return Observation(
        Subject("run", name, _partition(run)),
        record.storage_id,
        passed,
        _moment(record.timestamp),
        description="" if passed else _run_error(_event(record), run),
        what_to_do=what_to_do,
        path=f"/runs/{run.run_id}",
    )


def _months_observed(
    instance: dg.DagsterInstance, record: dg.EventLogRecord, run: dg.DagsterRun
) -> Iterator[Observation]:
    """Observe a run of several months as the runs of these months that it stands for."""
    failed: dict[Month, str] = {}
    done: set[Month] = set()
    if record.event_type == dg.DagsterEventType.RUN_SUCCESS:
        done = months_of_runs([run])
    elif (told := _told(_event(record), FAILED)) is not None:
        failed = {Month.parse(name): why for name, why in _json(told[FAILED]).items()}
        done = set(map(Month.parse, _json(told[DONE])))
    elif (begun := _last_begun(instance, run)) is not None:
        # It was killed, or something else than a month failed. What it had done by then is not known here; the sensor
        # runs those months again that have an open alert, and those that have pending work.
        failed = {begun: _run_error(_event(record), run)}
    for month in sorted({*failed, *done}):
        yield Observation(
            Subject("run", INDEX_MONTH, month.partition_key),
            record.storage_id,
            month in done,
            _moment(record.timestamp),
            description=failed.get(month, ""),
            path=f"/runs/{run.run_id}",
            part=str(month),
        )


def _told(ended: dg.DagsterEvent, key: str) -> Mapping[str, dg.MetadataValue] | None:
    """What a failed run tells with this metadata, of its months or its partition; None if it did not come to that."""
    failure = _failure(ended)
    step = failure.first_step_failure_event if failure else None
    told = step.step_failure_data.user_failure_data if step else None
    return told.metadata if told is not None and key in told.metadata else None


def _last_begun(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Month | None:
    planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    last = instance.get_records_for_run(run.run_id, of_type=planned, limit=1, ascending=False).records
    return Month.parse(last[0].partition_key) if last and last[0].partition_key else None


def _json(value: dg.MetadataValue) -> Any:
    return cast(dg.JsonMetadataValue, value).data


def _run_name(run: dg.DagsterRun) -> str:
    """Return the job's name; for assets selected by hand, their names."""
    selected = sorted(
        [key.to_user_string() for key in run.asset_selection or ()]
        + [f"{key.name} on {key.asset_key.to_user_string()}" for key in run.asset_check_selection or ()]
    )
    if not selected:
        return run.job_name
    if len(selected) > 4:
        # A different selection is a different subject, even if the first names are the same.
        digest = hashlib.sha256("\n".join(selected).encode()).hexdigest()[:6]
        selected = [*selected[:3], f"{len(selected) - 3} more ({digest})"]
    what = "materialization" if run.job_name == _ADHOC_JOB else run.job_name
    return f"{what} of {', '.join(selected)}"


def _run_error(event: dg.DagsterEvent, run: dg.DagsterRun) -> str:
    """Return where and why a run failed, on one line: the first failed step and its reason."""
    failure = _failure(event)
    step = failure.first_step_failure_event if failure else None
    if step is not None:
        return f"step {step.step_key}: {_reason(step.step_failure_data.error)}"
    if failure is not None and (reason := _reason(failure.error)):
        return reason
    if failure is not None and failure.failure_reason == RunFailureReason.START_TIMEOUT:
        said = "It could not be started in time"
    elif event.message and event.message != _MARKED_AS_FAILED and not event.message.startswith(_NO_WORKER):
        return event.message
    else:
        said = "Its process ended without a word (killed, or out of memory)"
    return f"{said}; it is started once more" if run.tags.get(WILL_RETRY_TAG) == "true" else said


def _failure(event: dg.DagsterEvent) -> JobFailureData | None:
    """Return why a run failed; None if its worker could not be started, or ended without a word."""
    data = event.event_specific_data
    return data if isinstance(data, JobFailureData) else None


def _reason(error: SerializableErrorInfo | None) -> str:
    """Return the root cause, on one line; our own errors without their class name."""
    if error is None:
        return ""
    while error.cause is not None:
        error = error.cause
    return one_line(RagError(_OUR_ERROR.sub("", error.message)), 300)


def _failed_by_checks(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> bool:
    """Whether a run failed through blocking checks alone: the checks have their own alerts."""
    if record.event_type != dg.DagsterEventType.RUN_FAILURE:
        return False
    failure = _failure(_event(record))
    first = failure.first_step_failure_event if failure else None
    if first is None or not _is_failed_check(first):
        return False
    failed = instance.all_logs(record.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return all(entry.dagster_event and _is_failed_check(entry.dagster_event) for entry in failed)


def _is_failed_check(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterAssetCheckFailedError"


def _tick_observed(state: InstigatorState, tick: InstigatorTick) -> Observation:
    sensor = state.instigator_type.value == "SENSOR"
    selector = state.selector
    place = _place(selector.location_name, selector.repository_name)
    return Observation(
        Subject("sensor" if sensor else "schedule", f"{state.name} of {selector.location_name}", ""),
        tick.tick_id,
        tick.status != TickStatus.FAILURE,
        _moment(tick.timestamp),
        description=_tick_error(tick.error),
        path=f"/locations/{place}/{'sensors' if sensor else 'schedules'}/{quote(state.name)}",
    )


def _tick_error(error: SerializableErrorInfo | None) -> str:
    """Return why a tick failed; if it took too long, this and not the text of the call to the code server."""
    part = error
    while part is not None:
        if found := _TOO_LONG.search(part.message):
            return f"the tick took longer than {found[1]} s"
        part = part.cause
    return _reason(error)


def _event(record: dg.EventLogRecord) -> dg.DagsterEvent:
    event = record.event_log_entry.dagster_event
    assert event is not None
    return event


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
