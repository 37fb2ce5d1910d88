"""The months that Dagster shows: those that exist, all of them, in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.errors import DagsterUnknownPartitionError

from rag_pipeline.alerts.recording import record
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.defs.event_log import read_events
from rag_pipeline.defs.month_partitions import months, show_months
from rag_pipeline.defs.run_month import run_month
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline_tests.defs.ticks import requested_months, tick_of_schedule, tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY, FEBRUARY, MARCH = (Month(2024, number) for number in (1, 2, 3))


def shown(instance: dg.DagsterInstance) -> list[Month]:
    return [Month.parse(key) for key in months.get_partition_keys(dynamic_partitions_store=instance)]


def requested(defs: dg.Definitions, instance: dg.DagsterInstance) -> list[Month]:
    return requested_months(tick_of_sensor(defs, "index_pending_months", instance))


def test_a_month_appears_in_its_place_with_its_first_document_and_goes_when_it_expires(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.write("b.md", "2024-02-05")
    location.write("now.md", str(datetime.now(UTC).date()))
    location.scan()
    assert requested(defs, instance) == [FEBRUARY, Month.now()]
    assert shown(instance) == [FEBRUARY, Month.now()]
    location.write("a.md", "2024-01-05")
    location.write("c.md", "2024-03-05")
    location.scan()
    requested(defs, instance)
    assert shown(instance) == [JANUARY, FEBRUARY, MARCH, Month.now()]
    location.ingest()

    monkeypatch.setenv("RAG_RETENTION_MONTHS", "3")
    assert defs.resolve_job_def("expire_months").execute_in_process(instance=instance).success
    assert shown(instance) == [Month.now()]
    monkeypatch.delenv("RAG_RETENTION_MONTHS")
    assert defs.resolve_job_def("expire_months").execute_in_process(instance=instance).success
    assert requested(defs, instance) == [JANUARY, FEBRUARY, MARCH]


def test_partitions_created_ahead_are_shown_and_a_lost_one_stays_to_be_repaired(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    location.write("a.md", "2024-01-05")
    location.ingest()
    assert defs.resolve_job_def("create_partitions").execute_in_process(instance=instance).success
    running = Month.now()
    assert shown(instance) == [JANUARY, running, running.next(), running.next().next()]
    location.sql("DELETE FROM documents")
    for table in ("document_chunks", "documents"):
        location.sql(f"ALTER TABLE {table} DETACH PARTITION {table}_2024_01")
        location.sql(f"DROP TABLE {table}_2024_01")
    requested(defs, instance)
    assert shown(instance)[0] == JANUARY
    assert (
        defs.resolve_job_def("repair_month")
        .execute_in_process(partition_key=JANUARY.partition_key, instance=instance)
        .success
    )
    assert location.stored(JANUARY)["dense"] == 1
    requests = tick_of_schedule(defs, "nightly_checks", instance).run_requests or ()
    assert [request.partition_key for request in requests] == [JANUARY.partition_key]


def test_documents_before_a_raised_first_month_keep_their_month(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.write("a.md", "2024-01-05")
    location.ingest()
    monkeypatch.setenv("RAG_FIRST_MONTH", "2024-03")
    location.write("a.md", "2024-01-05", "# 見出し\n\n書き直した。\n")
    location.write("b.md", "2024-02-05")
    location.scan()
    assert requested(defs, instance) == [JANUARY, MARCH]
    with Pipeline(load_settings()) as pipeline:
        result = ingest(pipeline, run=run_month)
    assert result.errors == []
    assert result.months == [JANUARY, MARCH]
    rows = "SELECT source_id, to_char(created_at, 'YYYY-MM') FROM documents ORDER BY 1"
    assert location.sql(rows) == [("docs:a.md", "2024-01"), ("docs:b.md", "2024-03")]
    assert len(tick_of_schedule(defs, "nightly_checks", instance).run_requests or ()) == 2


def test_a_partition_that_somebody_mistyped_stops_nothing_and_goes(
    location: CodeLocation,
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    typed = ["hello", "2024-1", "2024-01", "2024-13-01", "2024-01-01 ", "2031-05-01"]
    instance.add_dynamic_partitions("months", typed)
    reasons = {}
    for key in typed:
        for job in ("index_month", "check_month", "repair_month"):
            result = defs.resolve_job_def(job).execute_in_process(
                partition_key=key, instance=instance, raise_on_error=False
            )
            assert result.success == (key == "2031-05-01"), (job, key)
            reasons[key] = str([event.step_failure_data.error for event in result.get_step_failure_events()])
    assert "The partition 'hello' is not a month: choose one of the list, written like 20" in reasons["hello"]
    assert (
        "The partition '2024-01' is not a month: choose one of the list, written like 2024-01-01"
        in reasons["2024-01"]
    )
    seen = read_events(instance, 0, datetime.now(UTC) + timedelta(minutes=1)).observations
    assert [one.subject for one in seen if not one.passed] == [], "no run of a month would close an alert"
    with Pipeline(load_settings()) as pipeline:
        # One of an earlier version, or of another project.
        failed = Observation(Subject("run", "index_month", "hello"), 1, False, datetime.now(UTC))
        record(pipeline.stores.database, "log", [failed])

    assert requested(defs, instance) == [JANUARY]
    assert shown(instance) == [JANUARY]
    [line] = [one.getMessage() for one in caplog.records if one.name == show_months.__module__]
    assert line.endswith("'hello', '2024-1', '2024-01', '2024-13-01', '2024-01-01 '")
    # A run that was queued when its partition went.
    with pytest.raises(DagsterUnknownPartitionError, match="hello"):
        defs.resolve_job_def("index_month").execute_in_process(partition_key="hello", instance=instance)


def test_two_processes_that_show_the_months_at_once_agree(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    wanted = [Month(year, month) for year in (2022, 2023, 2024) for month in range(1, 13)]
    for month in wanted:
        location.sql("SELECT create_monthly_partition(%s)", month.start.date())
    instance.add_dynamic_partitions("months", ["2024-06-01", "2022-03-01", "1999-01-01"])

    def show(_: int) -> None:
        with Pipeline(load_settings()) as pipeline:
            show_months(instance, pipeline)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(show, range(4)))
    assert shown(instance) == wanted
