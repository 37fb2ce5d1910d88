"""The schedules and sensors that maintain the index, each as Dagster calls it."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest

from rag_pipeline.defs.month_partitions import PARTITION_TAG
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.months import Month
from rag_pipeline_tests.defs.ticks import tick_of_schedule, tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY, FEBRUARY = Month(2024, 1), Month(2024, 2)


def run(
    defs: dg.Definitions, job: str, instance: dg.DagsterInstance, **arguments: str
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **arguments)  # type: ignore[arg-type]


def start(defs: dg.Definitions, job: str, month: Month, instance: dg.DagsterInstance) -> None:
    """Record a run that has started and does not end."""
    tags = {PARTITION_TAG: month.partition_key}
    instance.create_run_for_job(defs.resolve_job_def(job), status=dg.DagsterRunStatus.STARTED, tags=tags)


def test_partitions_are_created_in_advance_in_all_stores(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    location.write("a.md", "2024-01-05")
    location.ingest()
    assert len(tick_of_schedule(defs, "create_partitions").run_requests or ()) == 1
    for _ in range(2):
        assert run(defs, "create_partitions", instance).success
    running = Month.now()
    wanted = {JANUARY, running, running.next(), running.next().next()}
    assert {Month.parse(name[-7:].replace("_", "-")) for (name,) in location.sql(PARTITIONS)} == wanted
    assert location.milvus_months() == dict.fromkeys(("dense", "sparse", "multi"), wanted)


PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND relname LIKE 'documents_2%'"


def test_the_nightly_checks_cover_each_month_with_documents_oldest_first(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    assert "no month has documents" in (tick_of_schedule(defs, "nightly_checks", instance).skip_message or "")
    location.write("b.md", "2024-02-05")
    location.write("a.md", "2024-01-05")
    location.ingest()
    location.sql("SELECT create_monthly_partition('2024-03-01')")
    requests = tick_of_schedule(defs, "nightly_checks", instance).run_requests or []
    assert [request.partition_key for request in requests] == [JANUARY.partition_key, FEBRUARY.partition_key]
    assert requests[0].tags["dagster/priority"] == "-1"
    # Checks still queued from the night before are not requested again.
    start(defs, "check_month", JANUARY, instance)
    requests = tick_of_schedule(defs, "nightly_checks", instance).run_requests or []
    assert [request.partition_key for request in requests] == [FEBRUARY.partition_key]


def test_old_months_expire_if_a_retention_is_set(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.write("a.md", "2024-01-05")
    location.write("b.md", str(datetime.now(UTC).date()))
    location.ingest()
    assert "RAG_RETENTION_MONTHS is not set" in (tick_of_schedule(defs, "expire_months").skip_message or "")
    monkeypatch.setenv("RAG_RETENTION_MONTHS", "3")
    assert len(tick_of_schedule(defs, "expire_months").run_requests or ()) == 1
    assert run(defs, "expire_months", instance).success
    assert location.sql("SELECT source_id FROM documents") == [("docs:b.md",)]
    assert JANUARY not in location.milvus_months()["dense"]
    assert "none is older" in (tick_of_schedule(defs, "expire_months").skip_message or "")


def test_deletions_by_sql_reach_milvus_even_after_it_was_down(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.write("a.md", "2024-01-05")
    location.write("b.md", "2024-01-06")
    location.ingest()
    assert location.stored(JANUARY)["dense"] == 2
    with monkeypatch.context() as patch:
        patch.setenv("RAG_MILVUS_URI", "http://127.0.0.1:9")
        assert "no pending deletions" in (
            tick_of_sensor(defs, "drain_vector_deletions", instance).skip_message or ""
        )
        location.sql("DELETE FROM documents WHERE source_id = 'docs:a.md'")
        with pytest.raises(StoreUnavailableError, match="nothing was lost"):
            tick_of_sensor(defs, "drain_vector_deletions", instance)
        assert location.sql("SELECT count(*) FROM vector_deletions") == [(1,)]
    # A restarted server has no collection loaded.
    location.release_collections()
    message = tick_of_sensor(defs, "drain_vector_deletions", instance).skip_message
    assert message == "deleted the vectors of 1 chunks from Milvus, 0 deletions pending"
    assert location.stored(JANUARY) == {"dense": 1, "sparse": 1, "multi": 4}
    assert location.sql("SELECT count(*) FROM vector_deletions") == [(0,)]


def test_a_backlog_of_deletions_is_reported_and_fails_past_the_limit(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.write("a.md", "2024-01-05")
    location.write("b.md", "2024-02-05")
    location.ingest()
    location.sql("DELETE FROM documents WHERE source_id = 'docs:a.md'")
    location.show_months(instance)
    for limit, month, pending, passed in (
        ("1", JANUARY, 1, True),
        ("0", JANUARY, 1, False),
        ("0", FEBRUARY, 0, True),
    ):
        monkeypatch.setenv("RAG_DELETIONS_BACKLOG", limit)
        result = run(defs, "check_month", instance, partition_key=month.partition_key)
        [found] = [e for e in result.get_asset_check_evaluations() if e.check_name == "vector_deletions_backlog"]
        assert (found.passed, found.metadata["pending"].value) == (passed, pending)
        assert found.partition == month.partition_key
    # A month's own run deletes before it checks.
    (location.docs / "b.md").unlink()
    location.write("c.md", "2024-01-05")
    location.scan()
    result = run(defs, "index_month", instance, partition_key=FEBRUARY.partition_key)
    [found] = [e for e in result.get_asset_check_evaluations() if e.check_name == "vector_deletions_backlog"]
    assert result.success
    assert (found.passed, found.metadata["pending"].value) == (True, 0)


def test_a_quarantined_document_is_retried_when_it_is_due(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    path = location.write("a.md", "2024-01-05")
    location.ingest()
    path.write_bytes(path.read_bytes()[:20] + b"\x00\x01\x02binary")
    location.ingest()
    assert location.sql("SELECT state FROM source_items") == [("failed",)]
    first = tick_of_sensor(defs, "index_pending_months", instance)
    assert first.run_requests == []
    location.sql("UPDATE source_items SET retry_at = now()")
    second = tick_of_sensor(defs, "index_pending_months", instance, first.cursor)
    assert [request.partition_key for request in second.run_requests or ()] == [JANUARY.partition_key]
    third = tick_of_sensor(defs, "index_pending_months", instance, second.cursor)
    assert third.run_requests == [], "it was requested a moment ago"


def test_a_running_month_is_not_requested_again_but_one_with_queued_checks_is(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    location.write("a.md", "2024-01-05")
    location.write("b.md", "2024-02-05")
    location.scan()
    for job, month in (("index_month", JANUARY), ("check_month", FEBRUARY)):
        start(defs, job, month, instance)
    requests = tick_of_sensor(defs, "index_pending_months", instance).run_requests or []
    assert [request.partition_key for request in requests] == [FEBRUARY.partition_key]
