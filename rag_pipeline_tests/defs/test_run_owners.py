"""Runs whose process is gone are ended, and their months go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG

from rag_pipeline.alerts.recording import record
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.defs import run_owners, sensors
from rag_pipeline.defs.event_log import read_events
from rag_pipeline.defs.month_partitions import PARTITION_TAG
from rag_pipeline.defs.run_owners import (
    PROCESS_TAG,
    cancel_launched_runs,
    cancel_runs_of_this_process,
    end_ownerless_runs,
    owned,
)
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.defs.ticks import tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY = Month(2024, 1)
IN_PROCESS = {PROCESS_TAG: "host, process 1"}


@pytest.fixture
def database(location: CodeLocation) -> Iterator[Database]:
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        yield pipeline.stores.database


def begin(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    job: str = "index_month",
    **tags: str,
) -> dg.DagsterRun:
    """A run as its process leaves it when it is killed."""
    tags = {PARTITION_TAG: JANUARY.partition_key, **tags}
    return instance.create_run_for_job(defs.resolve_job_def(job), status=status, tags=tags)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found.status


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_a_run_of_a_dead_process_ends_at_once(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    database: Database,
    status: dg.DagsterRunStatus,
    ended: dg.DagsterRunStatus,
) -> None:
    run = begin(defs, instance, status, **IN_PROCESS)
    assert end_ownerless_runs(instance, database) == [JANUARY]
    assert status_of(instance, run) == ended
    assert end_ownerless_runs(instance, database) == []


def test_a_run_of_a_dead_process_is_reported_as_failed(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    begin(defs, instance, **IN_PROCESS)
    end_ownerless_runs(instance, database)
    [seen] = read_events(instance, 0, datetime.now(UTC) + timedelta(minutes=1)).observations
    assert seen.subject == Subject("run", "index_month", JANUARY.partition_key)
    assert not seen.passed
    assert "The process of this run is gone" in seen.description


def test_a_run_whose_owner_lives_goes_on(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    run = begin(defs, instance, **IN_PROCESS)
    with owned(database, run.run_id):
        assert end_ownerless_runs(instance, database) == []
    assert status_of(instance, run) == dg.DagsterRunStatus.STARTED


def test_a_worker_of_the_daemon_gets_a_minute_of_silence(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(defs, instance)
    instance.report_engine_event("working", run)
    assert end_ownerless_runs(instance, database) == []
    monkeypatch.setattr(run_owners, "_QUIET", timedelta(0))
    assert end_ownerless_runs(instance, database) == [JANUARY]
    assert status_of(instance, run) == dg.DagsterRunStatus.FAILURE


def test_a_worker_owns_its_run_while_it_works(
    location: CodeLocation, instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_pipeline.defs import month_steps
    from rag_pipeline.defs.build import build_defs

    original, ended = month_steps.ingest_documents, []

    def meanwhile(pipeline: Pipeline, month: Month) -> object:
        ended.extend(end_ownerless_runs(instance, database))
        return original(pipeline, month)

    monkeypatch.setattr(run_owners, "_QUIET", timedelta(0))
    monkeypatch.setattr(month_steps, "ingest_documents", meanwhile)
    location.write("a.md", "2024-01-05")
    location.scan()
    defs = build_defs()
    tick_of_sensor(defs, "index_pending_months", instance)  # now Dagster knows the month
    job = defs.resolve_job_def("index_month")
    assert job.execute_in_process(partition_key=JANUARY.partition_key, instance=instance).success
    assert ended == []


def test_only_the_runs_of_this_process_are_canceled(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    ours = begin(defs, instance, **{PROCESS_TAG: run_owners.this_process()})
    other = begin(defs, instance, **IN_PROCESS)
    cancel_runs_of_this_process(instance)
    assert status_of(instance, ours) == dg.DagsterRunStatus.CANCELED
    assert status_of(instance, other) == dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize(
    ("status", "server", "ended"),
    [
        (dg.DagsterRunStatus.STARTED, {"host": "localhost", "socket": "/gone"}, dg.DagsterRunStatus.CANCELED),
        (dg.DagsterRunStatus.STARTING, {"host": "localhost", "socket": "/gone"}, dg.DagsterRunStatus.CANCELED),
        (dg.DagsterRunStatus.STARTED, {"host": "code.example", "port": 1}, dg.DagsterRunStatus.STARTED),
    ],
)
def test_the_runs_of_code_servers_here_are_canceled_before_these_are_stopped(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    database: Database,
    status: dg.DagsterRunStatus,
    server: dict[str, object],
    ended: dg.DagsterRunStatus,
) -> None:
    run = begin(defs, instance, status, **{GRPC_INFO_TAG: json.dumps(server)})
    cancel_launched_runs(instance, database, seconds=0)
    assert status_of(instance, run) == ended


def test_a_run_is_not_given_up_while_its_server_ends_it_or_its_owner_lives(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": "/gone"})}
    run = begin(defs, instance, **tags)
    with owned(database, run.run_id):
        cancel_launched_runs(instance, database, seconds=0)
    assert status_of(instance, run) == dg.DagsterRunStatus.CANCELING
    other = begin(defs, instance, **tags)
    asked: list[str] = []

    def end_later(run_id: str) -> bool:
        asked.append(run_id)
        return True

    def time_passes(seconds: float) -> None:
        instance.report_run_canceled(run)
        instance.report_run_canceled(other)

    monkeypatch.setattr(instance.run_launcher, "terminate", end_later)
    monkeypatch.setattr(run_owners.time, "sleep", time_passes)
    cancel_launched_runs(instance, database, seconds=60)
    assert sorted(asked) == sorted([run.run_id, other.run_id])


def requested(defs: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None) -> list[str | None]:
    tick = tick_of_sensor(defs, "index_pending_months", instance, cursor)
    return [request.partition_key for request in tick.run_requests or ()]


def test_the_sensor_ends_a_dead_run_and_goes_on_with_its_month_after_a_minute(
    location: CodeLocation,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    run = begin(defs, instance, **IN_PROCESS)
    assert requested(defs, instance) == []
    assert status_of(instance, run) == dg.DagsterRunStatus.FAILURE
    monkeypatch.setattr(sensors, "_RETRY_PAUSE", timedelta(0))
    assert requested(defs, instance) == [JANUARY.partition_key]


def test_the_sensor_says_which_of_the_pending_months_are_running(
    location: CodeLocation, defs: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    with owned(database, begin(defs, instance, **IN_PROCESS).run_id):
        tick = tick_of_sensor(defs, "index_pending_months", instance)
    assert tick.skip_message == "months with pending work: 1, of which 1 are running"


def test_a_month_whose_failure_was_reported_is_run_until_it_succeeds(
    location: CodeLocation,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensors, "_RETRY_PAUSE", timedelta(0))
    location.write("a.md", "2024-01-05")
    location.ingest()
    instance.report_run_failed(begin(defs, instance))
    assert requested(defs, instance) == [], "nobody was alerted, and nothing is pending"
    failed = Observation(
        Subject("run", "index_month", JANUARY.partition_key), 1, False, JANUARY.start, description="it died"
    )
    record(database, "log", [failed])
    tick = tick_of_sensor(defs, "index_pending_months", instance)
    assert [request.partition_key for request in tick.run_requests or ()] == [JANUARY.partition_key]
    assert requested(defs, instance, tick.cursor) == [], "not again at once"
    begin(defs, instance, dg.DagsterRunStatus.SUCCESS)
    assert requested(defs, instance) == [], "the alert has only not been closed yet"
