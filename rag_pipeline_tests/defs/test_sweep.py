"""The sweep finds damage by counting, and starts no run while there is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from rag_pipeline.alerts.recording import record
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.defs import sweep_sensor
from rag_pipeline.defs.jobs import CHECK_MONTH
from rag_pipeline.defs.month_checks import checks_of_collections, checks_of_tables
from rag_pipeline.defs.month_partitions import PARTITION_TAG
from rag_pipeline.defs.sensors import NOT_DUE
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VECTOR_KINDS, load_settings
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline_tests.defs.ticks import tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY, FEBRUARY, MARCH = (Month(2024, number) for number in (1, 2, 3))
LONG_AGO = json.dumps(["2024-01-01T00:00:00+00:00", None])


@pytest.fixture
def indexed(location: CodeLocation, monkeypatch: pytest.MonkeyPatch) -> CodeLocation:
    """A document in each of three months."""
    monkeypatch.setattr("rag_pipeline.indexing.verify._PAUSES_SECONDS", (0.01,))
    for month in (JANUARY, FEBRUARY, MARCH):
        location.write(f"{month}.md", f"{month}-05")
    location.ingest()
    return location


def lose_vectors(location: CodeLocation, month: Month) -> None:
    with Pipeline(load_settings()) as pipeline, pipeline.stores.milvus.client() as client:
        keys = location.sql(
            "SELECT dense_vector_id FROM document_chunks WHERE document_created_at >= %s AND document_created_at < %s",
            month.start,
            month.end,
        )
        client.delete(pipeline.collections.generations["dense"].name, ids=[key for (key,) in keys])


def months(tick: dg.SensorExecutionData) -> list[str | None]:
    return [request.partition_key for request in tick.run_requests or ()]


def test_a_month_whose_vectors_were_deleted_by_hand_is_checked_soon(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    tick = tick_of_sensor(defs, "sweep_counts", instance)
    assert months(tick) == []
    assert tick.skip_message == "months counted: 3, all as expected"
    lose_vectors(indexed, FEBRUARY)
    assert NOT_DUE in (tick_of_sensor(defs, "sweep_counts", instance, tick.cursor).skip_message or "")
    tick = tick_of_sensor(defs, "sweep_counts", instance, LONG_AGO)
    assert months(tick) == [FEBRUARY.partition_key]
    result = defs.resolve_job_def(CHECK_MONTH).execute_in_process(
        instance=instance, raise_on_error=False, partition_key=FEBRUARY.partition_key
    )
    failed = {e.check_name for e in result.get_asset_check_evaluations() if not e.passed}
    assert failed == {"vectors_verified", "missing_vectors"}


def test_unchanged_damage_is_not_checked_at_every_sweep(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    """Dagster starts one run for a key."""
    now = datetime(2024, 6, 1, 10, 5, tzinfo=UTC)

    def key(seen: str, minute: int) -> str | None:
        return sweep_sensor._request(JANUARY, seen, now.replace(minute=minute)).run_key

    assert key("4 of 5 vectors", 5) == key("4 of 5 vectors", 55)
    assert key("4 of 5 vectors", 5) != key("3 of 5 vectors", 5)


def test_a_month_with_a_run_is_left_to_it(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    lose_vectors(indexed, FEBRUARY)
    instance.create_run_for_job(
        defs.resolve_job_def(CHECK_MONTH),
        status=dg.DagsterRunStatus.STARTED,
        tags={PARTITION_TAG: FEBRUARY.partition_key},
    )
    assert months(tick_of_sensor(defs, "sweep_counts", instance)) == []
    for month in (JANUARY, MARCH):
        instance.create_run_for_job(
            defs.resolve_job_def(CHECK_MONTH),
            status=dg.DagsterRunStatus.STARTED,
            tags={PARTITION_TAG: month.partition_key},
        )
    said = tick_of_sensor(defs, "sweep_counts", instance).skip_message
    assert said == "months counted: 0; all are running"


def test_a_failing_check_is_repeated_so_that_a_repair_by_hand_shows(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    with Pipeline(load_settings()) as pipeline:
        seen = [
            Observation(Subject("check", f"{check} on documents", month.partition_key), number, False, month.start)
            for number, (check, month) in enumerate(
                (("status_mismatches", JANUARY), ("quarantined_documents", MARCH)), 1
            )
        ]
        record(pipeline.stores.database, "log", seen)
    assert months(tick_of_sensor(defs, "sweep_counts", instance)) == [JANUARY.partition_key]


def statuses(instance: dg.DagsterInstance, month: Month) -> set[Status]:
    """The statuses of the checks of a month."""
    storage = instance.event_log_storage
    keys = [*checks_of_tables(VECTOR_KINDS).keys, *checks_of_collections(VECTOR_KINDS).keys]
    latest = storage.get_latest_asset_check_execution_by_key(keys, PartitionKeyFilter(key=month.partition_key))
    return {record.status for record in latest.values()}


def test_a_month_whose_run_was_canceled_before_its_checks_is_checked(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    """Dagster's graph counts checks that were planned and not evaluated as not passed, else until the night."""
    april = MARCH.next()
    indexed.sql("SELECT create_monthly_partition(%s)", april.start.date())  # It has no documents.
    indexed.show_months(instance)
    index_month, check_month = map(defs.resolve_job_def, ("index_month", CHECK_MONTH))
    for month, status in (
        (JANUARY, dg.DagsterRunStatus.FAILURE),
        (FEBRUARY, dg.DagsterRunStatus.CANCELED),
        (MARCH, dg.DagsterRunStatus.STARTED),
        (april, dg.DagsterRunStatus.CANCELED),
    ):
        instance.create_run_for_job(index_month, status=status, tags={PARTITION_TAG: month.partition_key})
        assert statuses(instance, month) == {Status.PLANNED}, "as the UI shows it: skipped"
    tick = tick_of_sensor(defs, "sweep_counts", instance)
    assert months(tick) == [FEBRUARY.partition_key, april.partition_key]
    for month in (FEBRUARY, april):
        assert check_month.execute_in_process(instance=instance, partition_key=month.partition_key).success
        assert statuses(instance, month) == {Status.SUCCEEDED}
    assert months(tick_of_sensor(defs, "sweep_counts", instance, LONG_AGO)) == []

    # Of what Dagster's graph shows, the last row is of a partition that is no month.
    instance.add_dynamic_partitions("months", ["hello"])
    instance.report_run_failed(instance.create_run_for_job(index_month, tags={PARTITION_TAG: "hello"}))
    tick = tick_of_sensor(defs, "sweep_counts", instance, LONG_AGO)
    assert months(tick) == [april.partition_key], "any month"
    assert check_month.execute_in_process(instance=instance, partition_key=april.partition_key).success
    assert months(tick_of_sensor(defs, "sweep_counts", instance, LONG_AGO)) == []


def test_a_sweep_that_takes_long_goes_on_at_the_next_tick(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a month: the counts of a large one take longer than a tick may."""
    lose_vectors(indexed, MARCH)
    monkeypatch.setattr(sweep_sensor, "_SWEEP_SECONDS", 0)
    cursor = None
    found, said = [], []
    for _ in range(3 * len(VECTOR_KINDS)):
        tick = tick_of_sensor(defs, "sweep_counts", instance, cursor)
        cursor = tick.cursor
        found.append(months(tick))
        said.append(tick.skip_message)
    assert found == [*[[]] * (3 * len(VECTOR_KINDS) - 1), [MARCH.partition_key]]
    assert said[0] == f"months counted: 0; {JANUARY} goes on at the next tick"
    assert NOT_DUE in (tick_of_sensor(defs, "sweep_counts", instance, cursor).skip_message or "")
