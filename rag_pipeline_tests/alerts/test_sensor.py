"""The sensor on a real Dagster instance: jobs run, and their alerts arrive at a real receiver."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
import sqlalchemy
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorTick,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo
from dagster_postgres import PostgresScheduleStorage

from rag_pipeline.alerts.recording import record
from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.defs import alert_sensor, event_log
from rag_pipeline.defs.alert_sensor import alerts
from rag_pipeline.defs.event_log import log_name, read_events, read_ticks
from rag_pipeline.defs.resources import PipelineResource
from rag_pipeline.defs.sensors import NOT_DUE
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.alerts import Inbox
from rag_pipeline_tests.support.dagster_home import DagsterHome

months = dg.MonthlyPartitionsDefinition(start_date="2022-01-01", timezone="UTC", end_offset=1)


class World:
    """What the jobs of a test find."""

    def __init__(self) -> None:
        self.missing = 0
        self.raises: str | None = None
        self.severity = dg.AssetCheckSeverity.ERROR

    def definitions(self, blocking: bool = False) -> dg.Definitions:
        @dg.asset(partitions_def=months)
        def dense_collection() -> None:
            if self.raises:
                raise RuntimeError(self.raises)

        @dg.asset_check(asset=dense_collection, partitions_def=months, blocking=blocking)
        def vectors_verified() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(
                passed=not self.missing,
                severity=self.severity,
                description=f"Vectors expected: 5, stored: {5 - self.missing}.",
                metadata={"expected": 5, "what_to_do": "`rag-pipeline repair --month 2024-01` restores them"},
            )

        return dg.Definitions(
            assets=[dense_collection],
            asset_checks=[vectors_verified],
            jobs=[dg.define_asset_job("index_month")],
            executor=dg.in_process_executor,
        )

    def run(self, home: DagsterHome, month: str = "2024-01", blocking: bool = False) -> None:
        self.definitions(blocking).resolve_job_def("index_month").execute_in_process(
            partition_key=Month.parse(month).partition_key,
            instance=home.instance,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def listening(home: DagsterHome, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> DagsterHome:
    """The sensor with a receiver; events count as settled at once."""
    monkeypatch.setenv("RAG_ALERT_URLS", inbox.url)
    monkeypatch.setenv("RAG_UI_URL", "http://rag.example:3000/")
    monkeypatch.setattr(event_log, "SETTLE_SECONDS", 0.0)
    tick(home)
    return home


def tick(home: DagsterHome) -> str:
    """Evaluate the sensor, without a cursor: its position is in our database."""
    with dg.build_sensor_context(instance=home.instance, resources={"pipeline": PipelineResource()}) as context:
        result = alerts(context)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message
    return result.skip_message


def test_a_failing_check_alerts_once_until_it_recovers(listening: DagsterHome, inbox: Inbox, world: World) -> None:
    for missing in (0, 1, 2, 0, 0):
        world.missing = missing
        world.run(listening)
        tick(listening)
    assert inbox.titles == [
        "rag-pipeline: Failing: vectors_verified on dense_collection, 2024-01",
        "rag-pipeline: Recovered: vectors_verified on dense_collection, 2024-01",
    ]
    failing = inbox.messages[0]
    assert failing["type"] == "failure"
    runs = [run.run_id for run in listening.instance.get_runs(ascending=True)]
    lines = failing["message"].splitlines()
    assert lines[0].startswith("vectors_verified on dense_collection, 2024-01: failing since 20")
    assert lines[1:] == [
        "Vectors expected: 5, stored: 4.",
        "What to do: `rag-pipeline repair --month 2024-01` restores them.",
        f"Details: http://rag.example:3000/runs/{runs[1]}?logs=%27vectors_verified%27%20on%20%27dense_collection%27",
        "Repair it in the UI: http://rag.example:3000/locations/rag_pipeline/jobs/repair_month/playground/setup"
        "?tags%5B0%5D%5Bkey%5D=dagster%2Fpartition&tags%5B0%5D%5Bvalue%5D=2024-01-01",
    ]
    assert inbox.messages[1]["message"].splitlines()[1] == (
        f"http://rag.example:3000/runs/{runs[3]}?logs=%27vectors_verified%27%20on%20%27dense_collection%27"
    )


def test_thirty_months_failing_at_once_share_one_message(
    listening: DagsterHome, inbox: Inbox, world: World
) -> None:
    world.missing = 1
    failing = [str(month) for month in Month(2022, 1).until(Month(2024, 6))]
    for month in failing:
        world.run(listening, month)
    tick(listening)
    tick(listening)
    (message,) = inbox.messages
    assert message["title"] == "rag-pipeline: Failing: vectors_verified on dense_collection, 30 months"
    assert all(month in message["message"] for month in failing)


def test_a_warning_is_marked_as_a_warning(listening: DagsterHome, inbox: Inbox, world: World) -> None:
    world.missing, world.severity = 1, dg.AssetCheckSeverity.WARN
    world.run(listening)
    tick(listening)
    assert inbox.titles == ["rag-pipeline: Warning: vectors_verified on dense_collection, 2024-01"]
    assert inbox.messages[0]["type"] == "warning"


def test_failing_runs_alert_once_until_one_succeeds(listening: DagsterHome, inbox: Inbox, world: World) -> None:
    world.raises = "Milvus at milvus://rag:s3cret@host:19530 does not answer"
    world.run(listening)
    tick(listening)
    world.run(listening)  # retried
    tick(listening)
    world.raises = None
    world.run(listening)
    tick(listening)
    assert inbox.titles == [
        "rag-pipeline: Failing: index_month, 2024-01",
        "rag-pipeline: Recovered: index_month, 2024-01",
    ]
    text = inbox.messages[0]["message"]
    assert "step dense_collection: RuntimeError: Milvus at milvus://rag:***@host:19530 does not answer" in text
    assert "http://rag.example:3000/runs/" in text


@pytest.mark.parametrize(
    ("message", "reason", "tags", "said"),
    [
        (
            None,
            None,
            {"dagster/max_retries": "0"},
            "Its process ended without a word (killed, or out of memory)",
        ),
        (
            "Detected run worker status UNKNOWN. Marking run 1 as failed.",
            None,
            {},
            "Its process ended without a word (killed, or out of memory); it is started once more",
        ),
        (
            "Run timed out due to taking longer than 180 seconds to start.",
            RunFailureReason.START_TIMEOUT,
            {"dagster/max_retries": "0"},
            "It could not be started in time",
        ),
        ("The process of this run is gone.", None, {}, "The process of this run is gone."),
    ],
)
def test_a_run_whose_worker_ended_without_a_reason_alerts(
    home: DagsterHome,
    world: World,
    message: str | None,
    reason: RunFailureReason | None,
    tags: dict[str, str],
    said: str,
) -> None:
    run = home.instance.create_run_for_job(
        world.definitions().resolve_job_def("index_month"), tags={"dagster/partition": "2024-01-01", **tags}
    )
    data = JobFailureData(error=None, failure_reason=reason) if reason else None
    home.instance.report_run_failed(run, message, data)
    [seen] = read_events(home.instance, 0, datetime.now(UTC) + timedelta(minutes=1)).observations
    assert (seen.subject.name, seen.subject.partition) == ("index_month", "2024-01-01")
    assert seen.description == said


def test_a_run_failed_by_a_blocking_check_alone_is_reported_by_the_check(
    listening: DagsterHome, inbox: Inbox, world: World
) -> None:
    world.missing = 1
    world.run(listening, blocking=True)
    runs = listening.instance.get_runs()
    assert [run.status for run in runs] == [dg.DagsterRunStatus.FAILURE]
    tick(listening)
    assert inbox.titles == ["rag-pipeline: Failing: vectors_verified on dense_collection, 2024-01"]


def test_what_was_launched_without_its_month_does_not_alert(
    listening: DagsterHome, inbox: Inbox, world: World
) -> None:
    """No run of a month would ever close such an alert. One that is open is closed by a success."""
    world.raises = "Cannot access partition_key for a non-partitioned run"
    for _ in range(2):
        world.definitions().resolve_job_def("index_month").execute_in_process(
            instance=listening.instance, raise_on_error=False
        )
        for passed in (False, True):
            listening.instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    dg.AssetKey("dense_collection"), "vectors_verified", passed=passed, metadata={}
                )
            )
        assert next(run.status for run in listening.instance.get_runs()) == dg.DagsterRunStatus.FAILURE
        tick(listening)
    assert inbox.titles == []


def test_runs_of_selected_assets_are_reported_by_their_names(
    listening: DagsterHome, inbox: Inbox, world: World
) -> None:
    world.raises = "no"
    assets = world.definitions().resolve_assets_def("dense_collection")
    dg.materialize([assets], partition_key="2024-01-01", instance=listening.instance, raise_on_error=False)
    tick(listening)
    assert len(inbox.messages) == 1
    assert inbox.titles[0].startswith("rag-pipeline: Failing: ")
    assert "2024-01" in inbox.titles[0]


@pytest.mark.parametrize(
    ("assets", "checks", "subject", "closes"),
    [
        (built_assets(VECTOR_KINDS), [], "index_month", True),
        (["documents", "dense_collection"], [], "index_month", False),
        ([], [("documents", "rows_kept")], "check_month", False),
        (["sales"], [], "materialization of sales", True),
    ],
)
def test_a_run_by_hand_fails_its_month_and_closes_the_alert_only_if_it_is_whole(
    home: DagsterHome,
    database: Database,
    assets: list[str],
    checks: list[tuple[str, str]],
    subject: str,
    closes: bool,
) -> None:
    def run(job: str, success: bool, selected: bool = True) -> None:
        run = dg.DagsterRun(
            job_name=job,
            run_id=str(uuid4()),
            asset_selection=frozenset(map(dg.AssetKey, assets)) if selected else None,
            asset_check_selection=frozenset(dg.AssetCheckKey(dg.AssetKey(a), name) for a, name in checks)
            if selected
            else None,
            tags={"dagster/partition": "2024-03-01"},
        )
        home.instance.add_run(run)
        kind = dg.DagsterEventType.RUN_SUCCESS if success else dg.DagsterEventType.RUN_FAILURE
        home.instance.report_dagster_event(dg.DagsterEvent(kind.value, job), run.run_id)

    def recorded() -> list[tuple[str, str]]:
        log = log_name(home.instance)
        page = read_events(home.instance, 0, datetime.now(UTC) + timedelta(minutes=1))
        record(database, log, page.observations)
        with database.connection() as connection:
            return connection.execute("SELECT name, state FROM alert_outbox ORDER BY id").fetchall()

    run("__ASSET_JOB", False)
    opened = [(subject, "failing")]
    assert recorded() == opened
    run("__ASSET_JOB", True)
    assert recorded() == (opened if not closes else [*opened, (subject, "recovered")])
    if not closes:
        run(subject, True, selected=False)
        assert recorded() == [*opened, (subject, "recovered")]


def test_an_unreachable_receiver_loses_no_alert(
    listening: DagsterHome, inbox: Inbox, world: World, database: Database
) -> None:
    inbox.stop()
    world.missing = 1
    world.run(listening)
    assert "not accepted by URL 1 of RAG_ALERT_URLS (json://…)" in tick(listening)
    inbox.start()
    with database.connection() as connection:
        connection.execute("UPDATE alert_receivers SET next_try_at = now()")  # the pause is over
    tick(listening)
    tick(listening)
    assert len(inbox.messages) == 1


def test_new_processes_send_nothing_twice(home: DagsterHome, inbox: Inbox, world: World) -> None:
    world.missing = 1
    world.run(home)
    code = (
        "import dagster as dg\n"
        "from rag_pipeline.defs.alert_sensor import alerts\n"
        "from rag_pipeline.defs.resources import PipelineResource\n"
        "resources = {'pipeline': PipelineResource()}\n"
        "with dg.DagsterInstance.get() as instance, "
        "dg.build_sensor_context(instance=instance, resources=resources) as context:\n"
        "    print(alerts(context).skip_message)\n"
    )
    time.sleep(event_log.SETTLE_SECONDS)
    environment = {**home.variables, "RAG_ALERT_URLS": inbox.url, "PATH": ""}
    written = ""
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        written += ran.stdout + ran.stderr
    assert len(inbox.messages) == 1
    assert "hunter2" not in written
    assert "token-0123456789" not in written


def test_recent_events_wait_and_are_not_lost(home: DagsterHome, world: World) -> None:
    world.run(home)
    now = datetime.now(UTC)
    recent = read_events(home.instance, 0, now)
    assert (recent.observations, recent.read_up_to, recent.more) == ([], 0, False)
    settled = read_events(home.instance, 0, now + timedelta(seconds=event_log.SETTLE_SECONDS))
    assert {seen.subject.kind for seen in settled.observations} == {"check", "run"}
    # A clock that is ahead must not block the log.
    assert read_events(home.instance, 0, now - timedelta(hours=1)).observations


def test_an_event_committed_late_still_alerts(
    listening: DagsterHome, inbox: Inbox, world: World, package_database_url: str
) -> None:
    """Take an evaluation out of the log as if its transaction were still open, and put it back later."""
    world.missing = 1
    world.run(listening, "2024-01")
    with psycopg.connect(package_database_url, options="-c search_path=dagster") as connection:
        connection.execute(
            "CREATE TABLE held AS SELECT * FROM event_logs WHERE dagster_event_type = 'ASSET_CHECK_EVALUATION'"
        )
        connection.execute("DELETE FROM event_logs WHERE dagster_event_type = 'ASSET_CHECK_EVALUATION'")
    world.run(listening, "2024-02")
    tick(listening)
    with psycopg.connect(package_database_url, options="-c search_path=dagster") as connection:
        connection.execute("INSERT INTO event_logs SELECT * FROM held")
        connection.execute("DROP TABLE held")
    tick(listening)
    tick(listening)
    assert [title.rsplit(", ", 1)[1] for title in inbox.titles] == ["2024-02", "2024-01"]


def test_a_long_log_is_read_page_by_page(
    home: DagsterHome, world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_PAGE", 2)
    monkeypatch.setattr(event_log, "LATE_EVENTS", 1)
    for missing in (1, 0, 1, 1, 0):
        world.missing = missing
        world.run(home)
    now = datetime.now(UTC) + timedelta(seconds=10)
    after, seen, pages = 0, {}, 0
    while True:
        page = read_events(home.instance, after, now)
        seen |= {observation.event_id: observation for observation in page.observations}
        assert page.read_up_to >= after
        after, pages = page.read_up_to, pages + 1
        if not page.more:
            break
    whole = read_events(home.instance, 0, now)
    checks = [observation for observation in seen.values() if observation.subject.kind == "check"]
    assert [c.passed for c in sorted(checks, key=lambda c: c.event_id)] == [False, True, False, False, True]
    assert len(seen) == 10
    assert pages >= 4
    assert whole.more


def test_failing_sensors_and_schedules_alert_once_each(listening: DagsterHome, inbox: Inbox) -> None:
    sync = Ticking(listening.instance, "sync_docs", InstigatorType.SENSOR)
    nightly = Ticking(listening.instance, "nightly", InstigatorType.SCHEDULE)
    rounds = [
        (TickStatus.SUCCESS, TickStatus.SUCCESS),
        (TickStatus.FAILURE, TickStatus.SUCCESS),
        (TickStatus.FAILURE, TickStatus.FAILURE),
        (TickStatus.STARTED, TickStatus.FAILURE),
        (TickStatus.SKIPPED, TickStatus.SUCCESS),
    ]
    for sync_status, nightly_status in rounds:
        sync.tick(sync_status)
        nightly.tick(nightly_status)
        tick(listening)
        tick(listening)
    assert sorted(inbox.titles) == [
        "rag-pipeline: Failing: nightly of rag_pipeline",
        "rag-pipeline: Failing: sync_docs of rag_pipeline",
        "rag-pipeline: Recovered: nightly of rag_pipeline",
        "rag-pipeline: Recovered: sync_docs of rag_pipeline",
    ]
    assert "\nit is missing\n" in inbox.bodies()
    assert "http://rag.example:3000/locations/rag_pipeline/sensors/sync_docs" in inbox.bodies()
    assert "http://rag.example:3000/locations/rag_pipeline/schedules/nightly" in inbox.bodies()


def test_a_tick_that_took_too_long_says_so(home: DagsterHome) -> None:
    sweep = Ticking(home.instance, "sweep_counts", InstigatorType.SENSOR)
    begun = sweep.tick(TickStatus.STARTED)
    call = SerializableErrorInfo("<_InactiveRpcError of RPC that terminated with: DEADLINE_EXCEEDED>", [], "")
    message = "User code server request timed out due to taking longer than 60 seconds to complete."
    error = SerializableErrorInfo(message, [], "DagsterUserCodeUnreachableError", cause=call)
    home.instance.update_tick(begun.with_status(TickStatus.FAILURE, error=error, end_timestamp=time.time()))
    [seen] = read_ticks(home.instance, None, datetime.now(UTC)).observations
    assert seen.description == "the tick took longer than 60 s"


def test_the_ticks_of_many_sensors_are_read_at_once(home: DagsterHome) -> None:
    sensors = [Ticking(home.instance, f"sync_{n}", InstigatorType.SENSOR) for n in range(40)]
    for sensor in sensors:
        sensor.tick(TickStatus.FAILURE)
    storage = home.instance.schedule_storage
    assert isinstance(storage, PostgresScheduleStorage)
    statements: list[str] = []
    sqlalchemy.event.listen(
        storage._engine, "before_cursor_execute", lambda *call: statements.append(str(call[2])), named=False
    )
    page = read_ticks(home.instance, None, datetime.now(UTC))
    assert len(page.observations) == 40
    assert len([statement for statement in statements if "job_ticks" in statement]) == 2
    assert read_ticks(home.instance, page.read_up_to, datetime.now(UTC)).read_up_to == page.read_up_to


def test_a_tick_is_read_when_it_has_ended(home: DagsterHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "LATE_EVENTS", 0)
    slow, quick = (Ticking(home.instance, name, InstigatorType.SENSOR) for name in ("sync_slow", "sync_quick"))
    begun = slow.tick(TickStatus.STARTED)
    quick.tick(TickStatus.SUCCESS)
    first = read_ticks(home.instance, None, datetime.now(UTC))
    assert [seen.subject.name for seen in first.observations] == ["sync_quick of rag_pipeline"]
    error = SerializableErrorInfo("it is missing\n", [], "SourceError")
    home.instance.update_tick(begun.with_status(TickStatus.FAILURE, error=error, end_timestamp=time.time()))
    second = read_ticks(home.instance, first.read_up_to, datetime.now(UTC))
    assert {(seen.subject.name, seen.passed) for seen in second.observations} >= {
        ("sync_slow of rag_pipeline", False)
    }
    slow.tick(TickStatus.STARTED)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert read_ticks(home.instance, second.read_up_to, tomorrow).read_up_to > second.read_up_to, (
        "a killed daemon's"
    )


def test_a_new_dagster_storage_is_read_from_its_start(
    listening: DagsterHome, inbox: Inbox, world: World, package_database_url: str
) -> None:
    world.missing = 1
    world.run(listening)
    tick(listening)
    before = log_name(listening.instance)
    listening.instance.event_log_storage.wipe()
    listening.instance.run_storage.wipe()
    with psycopg.connect(package_database_url, options="-c search_path=dagster") as connection:
        connection.execute("TRUNCATE instance_info")
        connection.execute("ALTER SEQUENCE event_logs_id_seq RESTART")
    assert log_name(listening.instance) != before
    world.missing = 0
    world.run(listening)
    tick(listening)
    assert [title.split(": ")[1] for title in inbox.titles] == ["Failing", "Recovered"]


def test_storage_that_cannot_be_polled_is_reported(tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        dg.build_sensor_context(instance=instance, resources={"pipeline": "not used"}) as context,
    ):
        result = alerts(context)
    assert isinstance(result, dg.SkipReason)
    assert "Dagster's storage in PostgreSQL" in str(result.skip_message)


def test_a_tick_that_was_not_due_changes_nothing(listening: DagsterHome, inbox: Inbox) -> None:
    sync = Ticking(listening.instance, "sync_docs", InstigatorType.SENSOR)
    sync.tick(TickStatus.FAILURE)
    tick(listening)
    for status, reason in [
        (TickStatus.SKIPPED, f"docs {NOT_DUE} (@daily)"),
        (TickStatus.FAILURE, None),
        (TickStatus.SKIPPED, f"docs {NOT_DUE} (@daily)"),
    ]:
        sync.tick(status, reason)
        tick(listening)
    assert inbox.titles == ["rag-pipeline: Failing: sync_docs of rag_pipeline"]
    sync.tick(TickStatus.SKIPPED, "3 items: 0 new, 0 changed, 0 gone")
    tick(listening)
    assert inbox.titles[1:] == ["rag-pipeline: Recovered: sync_docs of rag_pipeline"]


class Ticking:
    """A sensor or schedule as Dagster's daemon stores it: its state and its ticks."""

    def __init__(self, instance: dg.DagsterInstance, name: str, kind: InstigatorType) -> None:
        self.instance, self.name, self.kind = instance, name, kind
        location = ManagedGrpcPythonEnvCodeLocationOrigin(
            LoadableTargetOrigin(module_name="rag_pipeline.definitions"), location_name="rag_pipeline"
        )
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
        data = (
            SensorInstigatorData(min_interval=30)
            if kind == InstigatorType.SENSOR
            else ScheduleInstigatorData("0 18 * * *")
        )
        self.state = InstigatorState(origin, kind, InstigatorStatus.AUTOMATICALLY_RUNNING, data)
        instance.add_instigator_state(self.state)

    def tick(self, status: TickStatus, skip_reason: str | None = None) -> InstigatorTick:
        error = SerializableErrorInfo("rag_pipeline.errors.SourceError: it is missing\n", [], "SourceError")
        return self.instance.create_tick(
            TickData(
                self.state.instigator_origin_id,
                self.name,
                self.kind,
                status,
                time.time(),
                run_ids=[],
                skip_reason=skip_reason,
                selector_id=self.state.selector_id,
                error=error if status == TickStatus.FAILURE else None,
            )
        )


def test_what_is_gone_is_not_reported_again_from_old_events(
    listening: DagsterHome, inbox: Inbox, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last events are read again at every tick, also those after the one that opened the alert."""
    gone = False
    monkeypatch.setattr(alert_sensor, "_gone_subjects", lambda *_: lambda subject: gone)
    world.missing = 1
    for _ in range(3):
        world.run(listening)
    tick(listening)
    gone = True
    for _ in range(3):
        tick(listening)
    assert [title.split(": ")[1] for title in inbox.titles] == ["Failing", "Recovered"]
