"""The pipeline resource: who gets it, when it is opened and closed, and what an override reaches."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from rag_pipeline.defs import month_steps
from rag_pipeline.defs.build import build_defs
from rag_pipeline.defs.month_partitions import show_months
from rag_pipeline.defs.resources import PipelineResource
from rag_pipeline.errors import RagError
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.defs.ticks import tick_of_schedule, tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY = Month(2024, 1)


@pytest.fixture
def opened(location: CodeLocation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline on the stores, which this process's variables no longer lead to."""
    location.scan_yearly().write("a.md", "2024-01-05")
    location.scan()
    with Pipeline(load_settings()) as pipeline:
        monkeypatch.setenv("RAG_POSTGRES_URL", "postgresql://127.0.0.1:9/nowhere")
        yield pipeline


def test_an_open_pipeline_reaches_assets_checks_ops_sensors_and_schedules(opened: Pipeline) -> None:
    done = MonthRun()
    defs = build_defs({"pipeline": opened, "month_run": done})
    with dg.instance_for_test() as instance:

        def run(job: str, month: Month | None = JANUARY) -> dg.ExecuteInProcessResult:
            key = month.partition_key if month else None
            return defs.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance)

        assert [
            r.partition_key for r in tick_of_sensor(defs, "index_pending_months", instance).run_requests or ()
        ] == [JANUARY.partition_key]
        assert run("index_month").success
        assert done.stats.documents == 1, "the asset stored it through the open pipeline"
        assert all(evaluation.passed for evaluation in run("check_month").get_asset_check_evaluations())
        assert run("create_partitions", None).success
        [request] = tick_of_schedule(defs, "nightly_checks", instance).run_requests or ()
        assert request.partition_key == JANUARY.partition_key
        assert "is not due yet" in (tick_of_sensor(defs, "sync_docs", instance).skip_message or "")
        assert "no pending deletions" in (
            tick_of_sensor(defs, "drain_vector_deletions", instance).skip_message or ""
        )
        assert "PostgreSQL" in (tick_of_sensor(defs, "alerts", instance).skip_message or "")
    with opened.stores.database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (1,), "Dagster did not close it"


def test_it_is_opened_once_per_tick_and_run_and_closed_at_the_end(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    create, close = PipelineResource.create_resource, Pipeline.close

    def counted_create(resource: PipelineResource, context: dg.InitResourceContext) -> Pipeline:
        events.append("opened")
        return create(resource, context)

    def counted_close(pipeline: Pipeline) -> None:
        events.append("closed")
        close(pipeline)

    location.write("a.md", "2024-01-05")
    location.scan()
    monkeypatch.setattr(PipelineResource, "create_resource", counted_create)
    monkeypatch.setattr(Pipeline, "close", counted_close)
    defs = build_defs()
    defs.get_repository_def()
    assert events == []
    tick_of_sensor(defs, "index_pending_months", instance)
    assert events == ["opened", "closed"]
    tick_of_schedule(defs, "nightly_checks", instance)
    assert events == ["opened", "closed"] * 2
    job = defs.resolve_job_def("index_month")
    assert job.execute_in_process(partition_key=JANUARY.partition_key, instance=instance).success
    assert events == ["opened", "closed"] * 3


def test_a_run_that_fails_counts_the_steps_that_were_done(
    opened: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RagError("Milvus refused the deletions")

    monkeypatch.setattr(month_steps, "drain_deletions", refused)
    done = MonthRun()
    job = build_defs({"pipeline": opened, "month_run": done}).resolve_job_def("index_month")
    with dg.instance_for_test() as instance:
        show_months(instance, opened)
        assert not job.execute_in_process(
            partition_key=JANUARY.partition_key, instance=instance, raise_on_error=False
        ).success
    assert done.stats.embedded == done.stats.chunks == 1
