"""The events of a run in this process: all of them, in their order, in few transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy.exc import OperationalError, ProgrammingError

from rag_pipeline.defs.event_storage import StepEventLogStorage
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.code_location import CodeLocation

_STEPS = ("documents", "document_chunks", "vector_collections", "table_checks", "collection_checks")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a step takes on a busy machine, its events are held."""
    monkeypatch.setattr("rag_pipeline.defs.event_storage._HELD_SECONDS", 600.0)


@pytest.mark.usefixtures("patient")
def test_a_run_is_written_step_by_step(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    run = location.only_run(instance)
    rows = location.sql(
        "SELECT xmin::text, dagster_event_type, step_key FROM dagster.event_logs WHERE run_id = %s ORDER BY id",
        run.run_id,
    )
    assert len({transaction for transaction, _, _ in rows}) == len(_STEPS) + 2, "its start, its steps and its end"
    for step in _STEPS:
        of_step = [kind for _, kind, key in rows if key == step and not kind.endswith("_PLANNED")]
        assert (of_step[0], of_step[-1]) == ("STEP_START", "STEP_SUCCESS")
    kinds = [kind for _, kind, _ in rows]
    assert kinds.index("PIPELINE_START") == sum(kind.endswith("_PLANNED") for kind in kinds)
    assert kinds[-1] == "PIPELINE_SUCCESS"


@pytest.mark.usefixtures("patient")
def test_a_run_of_the_daemon_is_written_step_by_step_too(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    location.show_months(instance)
    # As its worker does: with the resources, which open a pipeline for the run.
    assert (
        defs.resolve_job_def("index_month")
        .execute_in_process(partition_key="2024-01-01", instance=instance)
        .success
    )
    [run] = instance.get_runs()
    rows = location.sql(
        "SELECT xmin::text, dagster_event_type FROM dagster.event_logs WHERE run_id = %s ORDER BY id", run.run_id
    )
    assert rows[-1][1] == "PIPELINE_SUCCESS"
    from_resources = [kind for _, kind in rows].index("STEP_START")
    assert len({transaction for transaction, _ in rows[from_resources:]}) <= 2 * len(_STEPS)


def test_assets_and_checks_are_as_after_any_run(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    run = location.only_run(instance)
    for asset in ("documents", "document_chunks", "dense_collection", "sparse_collection", "multi_collection"):
        assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {"2024-01-01"}, asset
    storage = instance.event_log_storage
    planned = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    assert len(planned) > 15
    for entry in planned:
        data = entry.get_dagster_event().asset_check_planned_data
        [record] = storage.get_asset_check_execution_history(data.asset_check_key, limit=5)
        assert record.status == AssetCheckExecutionRecordStatus.SUCCEEDED, data.asset_check_key
        assert record.event is not None
        assert record.event.get_dagster_event().asset_check_evaluation_data.partition == "2024-01-01"


def test_what_was_held_when_an_event_could_not_be_written_is_written_with_the_next(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    held = instance.event_log_storage
    assert isinstance(held, StepEventLogStorage)
    held.hold_events()
    run = instance.create_run_for_job(_job())
    with hidden_table(location), pytest.raises(ProgrammingError, match="event_logs"):
        instance.report_engine_event("held", run)  # Such an event waits,
        instance.report_run_failed(run)  # and this one would bring it along.
    instance.report_run_canceled(run)
    assert [entry.dagster_event_type for entry in instance.all_logs(run.run_id)] == [
        dg.DagsterEventType.ENGINE_EVENT,
        dg.DagsterEventType.RUN_CANCELED,
    ]
    instance.report_engine_event("after the end", run)
    assert len(instance.all_logs(run.run_id)) == 3, "nothing is held that no event follows"


def test_nothing_is_held_for_long(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, StepEventLogStorage)
    storage.hold_events()
    run = instance.create_run_for_job(_job())
    instance.report_engine_event("first", run)
    assert instance.all_logs(run.run_id) == []
    monkeypatch.setattr("rag_pipeline.defs.event_storage._HELD_SECONDS", 0.0)
    instance.report_engine_event("second", run)
    assert [entry.message for entry in instance.all_logs(run.run_id)] == ["first", "second"]


def test_a_lost_connection_is_an_error_and_no_stack_trace(
    location: CodeLocation, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    storage = instance.event_log_storage
    run = instance.create_run_for_job(_job())
    instance.report_engine_event("before", run)
    before = instance.all_logs(run.run_id)
    location.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(OperationalError):
        storage.store_event_batch(before)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    storage.store_event_batch(before)
    assert len(instance.all_logs(run.run_id)) == 2


def test_dagsters_history_does_not_wait_for_the_disk(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    setting = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql(setting).one() == ("off", "client")
    with Pipeline(load_settings()) as pipeline, pipeline.stores.database.connection() as ours:
        assert ours.execute(setting).fetchone()[1] != "client"  # type: ignore[index]


def test_other_processes_hold_nothing(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(_job())
    instance.report_engine_event("at once", run)
    assert [entry.dagster_event_type for entry in instance.all_logs(run.run_id)] == [
        dg.DagsterEventType.ENGINE_EVENT
    ]


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def empty() -> None:
        nothing()

    return empty


@contextmanager
def hidden_table(location: CodeLocation) -> Iterator[None]:
    """PostgreSQL refuses events meanwhile."""
    location.sql("ALTER TABLE dagster.event_logs RENAME TO event_logs_hidden")
    try:
        yield
    finally:
        location.sql("ALTER TABLE dagster.event_logs_hidden RENAME TO event_logs")
