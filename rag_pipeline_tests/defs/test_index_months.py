"""Months with little to do share a run, which leaves of each what its own run would leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy.exc import OperationalError

from rag_pipeline.alerts.recording import record
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.defs import index_months, month_steps, sensors
from rag_pipeline.defs.event_log import read_events
from rag_pipeline.defs.index_months import config_of
from rag_pipeline.defs.jobs import months_failed_since, months_in_runs, succeeded_since
from rag_pipeline.defs.month_partitions import MONTHS_TAG, months_of_runs, months_tag
from rag_pipeline.defs.run_month import run_month, run_months
from rag_pipeline.defs.run_owners import PROCESS_TAG, end_ownerless_runs
from rag_pipeline.errors import BusyError, LockLostError, RagError, StoreUnavailableError
from rag_pipeline.indexing import ingest as ingest_module
from rag_pipeline.indexing import small_months
from rag_pipeline.indexing.ingest import IngestResult, ingest
from rag_pipeline.indexing.month_run import MonthRuns
from rag_pipeline.indexing.verify import VectorCounts
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres import documents
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline_tests.defs.ticks import requested_months, tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY, FEBRUARY, MARCH, APRIL = (Month(2024, number) for number in range(1, 5))
ASSETS = ("documents", "document_chunks", "dense_collection", "sparse_collection", "multi_collection")


def write(location: CodeLocation, *months: Month, text: str = "索引を正しく保つ。") -> None:
    for month in months:
        location.write(f"{month}.md", f"{month}-05", text)


def ingest_all(**arguments: Any) -> IngestResult:
    """What `rag-pipeline ingest` does."""
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        return ingest(pipeline, run=run_month, run_together=run_months, **arguments)


def runs(instance: dg.DagsterInstance) -> list[tuple[str, str, set[Month]]]:
    """All runs, the newest first: job, status, months."""
    return [(run.job_name, run.status.value, months_of_runs([run])) for run in instance.get_runs()]


def observed(instance: dg.DagsterInstance) -> list[Observation]:
    """What the alerts learn about runs from the event log."""
    seen = read_events(instance, 0, datetime.now(UTC) + timedelta(minutes=1)).observations
    return [observation for observation in seen if observation.subject.kind == "run"]


def evaluations(instance: dg.DagsterInstance) -> dict[tuple[str, str, str], dg.AssetCheckEvaluation]:
    """The last evaluations, by asset, check and month."""
    records = instance.event_log_storage.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION), ascending=True
    )
    found = {}
    for one in records:
        assert one.event_log_entry.dagster_event is not None
        evaluation = one.event_log_entry.dagster_event.asset_check_evaluation_data
        found[str(evaluation.asset_key.path[-1]), evaluation.check_name, str(evaluation.partition)] = evaluation
    return found


@contextmanager
def failing(months: Month | set[Month], error: Exception, step: str = "chunks_step") -> Iterator[None]:
    """Months whose step fails."""
    real = getattr(month_steps, step)

    def fail(pipeline: Pipeline, asked: Month, *rest: Any) -> object:
        if asked in (months if isinstance(months, set) else {months}):
            raise error
        return real(pipeline, asked, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_months, step, fail)
        yield


def test_months_share_a_run_that_leaves_what_their_own_runs_leave(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY)
    ingest_all()
    own = evaluations(instance)
    alone = {
        asset: instance.get_latest_materialization_event(dg.AssetKey(asset)).asset_materialization.metadata.keys()  # type: ignore[union-attr]
        for asset in ASSETS
    }
    write(location, FEBRUARY, MARCH)
    result = ingest_all()
    assert (result.errors, result.months, result.stats.embedded) == ([], [FEBRUARY, MARCH], 2)
    assert runs(instance)[0] == ("index_months", "SUCCESS", {FEBRUARY, MARCH})
    for asset in ASSETS:
        key = dg.AssetKey(asset)
        assert instance.get_materialized_partitions(key) == {f"{month}-01" for month in (JANUARY, FEBRUARY, MARCH)}
        latest = instance.get_latest_materialization_event(key)
        assert latest is not None
        assert latest.asset_materialization is not None
        assert latest.asset_materialization.metadata.keys() == alone[asset]
    shared = evaluations(instance)
    for month in (FEBRUARY, MARCH):
        of_month = {
            (asset, check): one for (asset, check, partition), one in shared.items() if partition == f"{month}-01"
        }
        assert of_month.keys() == {(asset, check) for asset, check, _ in own}
        assert all(one.passed for one in of_month.values())
        for (asset, check), one in of_month.items():
            assert one.metadata.keys() == own[asset, check, "2024-01-01"].metadata.keys()
    assert ingest_all().months == [], "nothing is left to do"


def test_a_later_edit_is_checked_by_what_it_changed(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    write(location, JANUARY, FEBRUARY)
    ingest_all()
    write(location, JANUARY, FEBRUARY, text="別の文。")
    ingest_all()
    compared = {
        str(one.metadata["compared"].value) for one in evaluations(instance).values() if "compared" in one.metadata
    }
    assert compared == {"documents changed: 1, chunks written: 1, deleted: 1"}


def test_large_months_have_a_run_of_their_own_and_a_small_one_the_quicker_job(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(location, JANUARY)
    ingest_all()
    assert runs(instance) == [("index_months", "SUCCESS", {JANUARY})]
    monkeypatch.setattr(small_months, "_FEW", 1)
    for name in "abc":
        location.write(f"{name}.md", "2024-02-05", name)
    write(location, MARCH, APRIL)
    assert ingest_all().months == [FEBRUARY, MARCH, APRIL]
    assert runs(instance)[:2] == [
        ("index_month", "SUCCESS", {FEBRUARY}),
        ("index_months", "SUCCESS", {MARCH, APRIL}),
    ]


def test_a_month_that_fails_does_not_keep_the_others(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    with failing(FEBRUARY, RagError("its chunks are too strange")):
        result = ingest_all()
    assert result.errors == ["2024-02: its chunks are too strange"]
    assert result.months == [JANUARY, FEBRUARY, MARCH]
    assert runs(instance) == [("index_months", "FAILURE", {JANUARY, FEBRUARY, MARCH})]
    assert instance.get_materialized_partitions(dg.AssetKey("documents")) == {f"2024-0{n}-01" for n in (1, 2, 3)}
    assert instance.get_materialized_partitions(dg.AssetKey("document_chunks")) == {"2024-01-01", "2024-03-01"}
    seen = {one.subject: (one.passed, one.description) for one in observed(instance)}
    assert seen == {
        Subject("run", "index_month", "2024-01-01"): (True, ""),
        Subject("run", "index_month", "2024-02-01"): (False, "its chunks are too strange"),
        Subject("run", "index_month", "2024-03-01"): (True, ""),
    }
    before = datetime.now(UTC) - timedelta(hours=1)
    assert not succeeded_since(instance, FEBRUARY, before)
    assert months_failed_since(instance, before) == {JANUARY, FEBRUARY, MARCH}

    assert ingest_all().months == [FEBRUARY]
    assert succeeded_since(instance, FEBRUARY, before)
    assert not succeeded_since(instance, FEBRUARY, datetime.now(UTC))
    assert [one.passed for one in observed(instance) if one.subject.partition == "2024-02-01"] == [False, True]


def test_an_unexpected_error_is_one_month_s_too(location: CodeLocation, instance: dg.DagsterInstance) -> None:
    write(location, JANUARY, FEBRUARY)
    with failing(JANUARY, ZeroDivisionError("a fault of ours")):
        result = ingest_all()
    assert result.errors == ["2024-01: a fault of ours"]
    assert {(one.subject.partition, one.passed) for one in observed(instance)} == {
        ("2024-01-01", False),
        ("2024-02-01", True),
    }
    [run] = instance.get_runs()
    logged = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert any("ZeroDivisionError" in message and "Traceback" in message for message in logged)


def test_several_failing_months_of_one_run_are_an_alert_each(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    with failing(JANUARY, RagError("first")), failing(FEBRUARY, RagError("second"), "documents_step"):
        ingest_all()
    with Pipeline(load_settings()) as pipeline:
        alerts = record(pipeline.stores.database, "log", observed(instance))
        again = record(pipeline.stores.database, "log", observed(instance))
    rows = location.sql("SELECT partition, state, details->>'description' FROM alert_outbox ORDER BY partition")
    assert rows == [("2024-01-01", "failing", "first"), ("2024-02-01", "failing", "second")]
    assert (alerts, again) == (2, 0)


def test_a_month_whose_counts_differ_is_reported_by_its_check(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = month_steps.verify

    def one_too_few(pipeline: Pipeline, month: Month, *rest: Any) -> list[VectorCounts]:
        counts = real(pipeline, month, *rest)
        if month == JANUARY:
            counts[0] = VectorCounts("dense", month, 2, 1, 1, 0)
        return counts

    monkeypatch.setattr(month_steps, "verify", one_too_few)
    write(location, JANUARY, FEBRUARY)
    [error] = ingest_all().errors
    assert error.startswith("2024-01: Vectors expected in dense_collection: 2, stored: 1")
    assert runs(instance) == [("index_months", "FAILURE", {JANUARY, FEBRUARY})]
    assert [(one.subject.partition, one.passed) for one in observed(instance)] == [("2024-02-01", True)]
    assert not evaluations(instance)["dense_collection", "vectors_verified", "2024-01-01"].passed


def test_an_outage_ends_the_run_and_is_the_failure_of_the_month_that_met_it(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    outage = StoreUnavailableError("Milvus at 127.0.0.1:1 does not answer")
    result = IngestResult()
    with failing(FEBRUARY, outage, "vectors_step"), pytest.raises(StoreUnavailableError, match="does not answer"):
        ingest_all(result=result)
    assert result.months == [JANUARY, FEBRUARY]
    assert [(one.subject.partition, one.passed, one.description) for one in observed(instance)] == [
        ("2024-01-01", True, ""),
        ("2024-02-01", False, "Milvus at 127.0.0.1:1 does not answer"),
    ]
    assert instance.get_materialized_partitions(dg.AssetKey("document_chunks")) == {"2024-01-01", "2024-02-01"}
    assert ingest_all().months == [FEBRUARY, MARCH]
    assert runs(instance)[0] == ("index_months", "SUCCESS", {FEBRUARY, MARCH})


def test_a_month_that_another_run_works_on_is_left_and_then_waited_for(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_months, "_WAIT_SECONDS", 0.05)
    write(location, JANUARY, FEBRUARY)
    waited: list[Month] = []
    with Pipeline(load_settings()) as other, Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        with other.month_lock(JANUARY):
            result = ingest(pipeline, run=lambda _, month, __: waited.append(month), run_together=run_months)
    assert (result.errors, waited) == ([], [JANUARY])
    assert runs(instance) == [("index_months", "SUCCESS", {FEBRUARY})], "only what it has done"
    assert [one.subject.partition for one in observed(instance)] == ["2024-02-01"]


GONE = OperationalError("SELECT", {}, Exception("terminating connection"))
"""What ends a run without a word about its months, as a kill does: Dagster's storage is gone."""


def end_in(month: Month, step: str, *months: Month) -> None:
    """Run months together, and end in a step of one of them."""
    with (
        Pipeline(load_settings()) as pipeline,
        failing(month, GONE, step),
        pytest.raises(RagError, match="terminating"),
    ):
        run_months(pipeline, months, MonthRuns())


def test_the_months_of_a_killed_run_are_run_again(
    location: CodeLocation, defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    job = defs.resolve_job_def("index_months")
    tags = {MONTHS_TAG: months_tag([JANUARY, FEBRUARY]), PROCESS_TAG: "host, process 1"}
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert months_in_runs(instance) == {JANUARY, FEBRUARY}
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        assert end_ownerless_runs(instance, pipeline.stores.database) == [JANUARY, FEBRUARY]
    assert observed(instance) == [], "it had begun no month"
    assert months_in_runs(instance) == set()


def test_a_killed_run_is_the_failure_of_the_month_that_it_was_at(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    location.scan()
    end_in(FEBRUARY, "chunks_step", JANUARY, FEBRUARY, MARCH)
    [seen] = observed(instance)
    assert (seen.subject.partition, seen.passed) == ("2024-02-01", False)
    assert "terminating connection" in seen.description
    assert ingest_all().months == [FEBRUARY, MARCH]
    assert [(one.subject.partition, one.passed) for one in observed(instance)] == [
        ("2024-02-01", False),
        ("2024-02-01", True),
        ("2024-03-01", True),
    ]


def test_what_a_killed_run_wrote_is_compared_with_the_whole_month(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY)
    ingest_all()
    write(location, JANUARY, FEBRUARY, text="別の文。")
    location.scan()
    end_in(FEBRUARY, "vectors_step", JANUARY, FEBRUARY)
    write(location, JANUARY, FEBRUARY, text="また別の文。")
    ingest_all()
    key = ("dense_collection", "missing_vectors")
    compared = {
        month: evaluations(instance)[*key, month.partition_key].metadata["compared"].value
        for month in (JANUARY, FEBRUARY)
    }
    assert compared == {
        JANUARY: "documents changed: 1, chunks written: 1, deleted: 1",
        FEBRUARY: "the whole month",
    }


def test_a_month_that_another_run_had_done_before_it_was_canceled_is_repeated_until_its_alert_closes(
    location: CodeLocation, defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_RETRY_PAUSE", timedelta(0))
    write(location, JANUARY)
    location.ingest()
    failed = Observation(
        Subject("run", "index_month", "2024-01-01"), 1, False, datetime.now(UTC), description="it failed"
    )
    with Pipeline(load_settings()) as pipeline:
        record(pipeline.stores.database, "log", [failed])
    job, tags = defs.resolve_job_def("index_months"), {MONTHS_TAG: "2024-01 2024-02"}
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.CANCELED, tags=tags)
    assert requested_months(tick_of_sensor(defs, "index_pending_months", instance)) == [JANUARY]
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    assert requested_months(tick_of_sensor(defs, "index_pending_months", instance)) == []


def test_what_somebody_typed_as_a_tag_is_no_month(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    job = defs.resolve_job_def("index_months")
    tags = {MONTHS_TAG: "2024-01, 2024-02 May", "dagster/partition": "2024-01-15"}
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert months_in_runs(instance) == {FEBRUARY}
    instance.report_run_failed(run)
    assert observed(instance) == []


def test_a_lock_that_is_busy_or_lost_in_the_middle_fails_its_month_alone(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    busy, lost = (
        BusyError("dense_1 is written by another process"),
        LockLostError("month 2024-02: its session ended"),
    )
    with failing(JANUARY, busy, "vectors_step"), failing(FEBRUARY, lost, "chunks_step"):
        result = ingest_all()
    assert result.errors == [f"2024-01: {busy}", f"2024-02: {lost}"]
    assert result.stats.documents == 3, "what was done until then is counted"
    assert runs(instance) == [("index_months", "FAILURE", {JANUARY, FEBRUARY, MARCH})]


def test_dagster_shows_the_checks_of_a_month_as_those_of_its_materialization(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, FEBRUARY)
    ingest_all()
    storage = instance.event_log_storage
    for asset in ASSETS:
        newest = {
            str(one.partition_key): one.storage_id
            for one in instance.fetch_materializations(dg.AssetKey(asset), limit=5).records
        }
        targets = {
            evaluation.partition: evaluation.target_materialization_data.storage_id
            for (of, _, _), evaluation in evaluations(instance).items()
            if of == asset and evaluation.target_materialization_data is not None
        }
        assert targets == newest
    planned = [one for one in storage.get_logs_for_run(instance.get_runs()[0].run_id) if one.is_dagster_event]
    kinds = [one.get_dagster_event().event_type_value for one in planned]
    assert kinds.count("ASSET_MATERIALIZATION_PLANNED") == kinds.count("ASSET_MATERIALIZATION") == 2 * len(ASSETS)
    assert kinds.count("ASSET_CHECK_EVALUATION_PLANNED") == kinds.count("ASSET_CHECK_EVALUATION") > 30
    statuses = location.sql(
        "SELECT DISTINCT execution_status FROM dagster.asset_check_executions WHERE partition <> ''"
    )
    assert statuses == [("SUCCEEDED",)]


def test_the_sensor_requests_small_months_together_and_what_they_leave_alone(
    location: CodeLocation, defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_months, "_FEW", 1)
    monkeypatch.setattr(sensors, "_RETRY_PAUSE", timedelta(0))
    monkeypatch.setattr("rag_pipeline.indexing.run_selection._FIRST_PAUSE", timedelta(0))
    for name in "ab":
        location.write(f"{name}.md", "2024-04-05", name)
    write(location, JANUARY, FEBRUARY, MARCH)
    location.scan()
    tick = tick_of_sensor(defs, "index_pending_months", instance)
    alone, together = tick.run_requests or ()
    assert (alone.job_name, alone.partition_key) == ("index_month", "2024-04-01")
    assert (together.job_name, together.partition_key) == ("index_months", None)
    assert together.run_config == config_of([JANUARY, FEBRUARY, MARCH])
    assert together.tags[MONTHS_TAG] == "2024-01 2024-02 2024-03"
    job = defs.resolve_job_def("index_months")
    for _ in range(2):
        with failing({FEBRUARY, MARCH}, RagError("strange"), "documents_step"):
            done = job.execute_in_process(
                instance=instance, run_config=together.run_config, tags=together.tags, raise_on_error=False
            )
        assert not done.success
        # Once more together, perhaps it was an outage; then each is to say for itself what is wrong.
        tick = tick_of_sensor(defs, "index_pending_months", instance, tick.cursor)
        together = next((request for request in tick.run_requests or () if request.run_config), together)
    requested = [(request.job_name, request.partition_key) for request in tick.run_requests or ()]
    assert requested == [("index_month", f"2024-0{month}-01") for month in (2, 3, 4)]


def test_without_months_it_runs_all_that_have_work(
    location: CodeLocation, defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    write(location, JANUARY, MARCH)
    location.scan()
    job = defs.resolve_job_def("index_months")
    assert job.execute_in_process(instance=instance).success
    assert runs(instance) == [("index_months", "SUCCESS", {JANUARY, MARCH})]
    assert location.stored(MARCH)["dense"] == 1
    for tags, kept in (({}, None), ({MONTHS_TAG: "2024-02"}, "none")):
        done = job.execute_in_process(instance=instance, tags=tags)
        nothing_to_do = instance.get_run_by_id(done.run_id)
        assert nothing_to_do is not None
        assert nothing_to_do.tags.get(MONTHS_TAG) == kept, "not an empty tag"
        assert months_of_runs([nothing_to_do]) == set()
    wrong = job.execute_in_process(
        instance=instance,
        run_config=config_of([]) | {"ops": {"index_each_month": {"config": {"months": ["May"]}}}},
        raise_on_error=False,
    )
    [failure] = wrong.get_step_failure_events()
    assert "May" in str(failure.step_failure_data.error)


def test_the_amount_of_work_is_that_of_each_month(location: CodeLocation) -> None:
    write(location, JANUARY, FEBRUARY)
    location.ingest()
    for name in "abc":
        location.write(f"{name}.md", "2024-01-31", name)
    location.write("edge.md", "2024-02-01", "the first day")
    location.scan()
    location.sql("UPDATE documents SET indexing_status = 'indexing' WHERE title = '2024-02'")
    with Pipeline(load_settings()) as pipeline, pipeline.stores.database.connection() as connection:
        months = [JANUARY, FEBRUARY, MARCH]
        assert documents.amount_of_work(connection, months, 9) == {JANUARY: 3, FEBRUARY: 2, MARCH: 0}
        assert documents.amount_of_work(connection, months, 2) == {JANUARY: 2, FEBRUARY: 2, MARCH: 0}


def test_a_check_that_is_evaluated_twice_has_its_last_result(instance: dg.DagsterInstance) -> None:
    from rag_pipeline.defs.event_storage import StepEventLogStorage

    assert isinstance(instance.event_log_storage, StepEventLogStorage)
    instance.event_log_storage.hold_events()
    key = dg.AssetCheckKey(dg.AssetKey("documents"), "index_issues")

    @dg.op
    def evaluate() -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        for passed in (True, False):
            yield dg.AssetCheckEvaluation(
                asset_key=key.asset_key, check_name=key.name, passed=passed, partition="2024-01-01", blocking=False
            )
        yield dg.Output(None)

    @dg.job
    def twice() -> None:
        evaluate()

    assert twice.execute_in_process(instance=instance).success
    [kept] = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    assert kept.status == AssetCheckExecutionRecordStatus.FAILED


def test_ingest_runs_what_a_run_of_several_left(location: CodeLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    write(location, JANUARY, FEBRUARY, MARCH)
    alone: list[Month] = []

    def together(pipeline: Pipeline, months: object, done: Any) -> None:
        done.end(JANUARY, ingest_module.MonthRun())
        raise RagError("run 1 failed")

    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        result = ingest(pipeline, run=lambda _, month, __: alone.append(month), run_together=together)
    assert (alone, result.errors) == ([FEBRUARY, MARCH], ["run 1 failed"])
    assert result.months == [JANUARY, FEBRUARY, MARCH]
