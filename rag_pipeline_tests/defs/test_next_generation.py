"""A generation is built by Dagster: the sensor requests its months, runs show what they did, alerts end with it."""

from __future__ import annotations

import dagster as dg
import pytest

from rag_pipeline.defs.gone_subjects import GoneSubjects
from rag_pipeline.defs.month_partitions import PARTITION_TAG, show_months
from rag_pipeline.defs.next_generation import ASSET, BUILD_GENERATION, generation_months, parse_key
from rag_pipeline.generations import registry, switching
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.sources.config import read_sources
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline_tests.defs.ticks import tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation
from rag_pipeline_tests.support.generations import WIDE

SENSOR = "build_generation_months"


@pytest.fixture
def indexed(location: CodeLocation) -> CodeLocation:
    location.write("a.md", "2024-01-05")
    location.write("b.md", "2024-02-05")
    location.ingest()
    return location


def begin() -> None:
    with Pipeline(load_settings(embedder=WIDE)) as pipeline:
        registry.begin(pipeline)


def requested(tick: dg.SensorExecutionData) -> list[str | None]:
    return [request.partition_key for request in tick.run_requests or ()]


def run(defs: dg.Definitions, instance: dg.DagsterInstance, key: str) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def(BUILD_GENERATION)
    return job.execute_in_process(partition_key=key, instance=instance, raise_on_error=False)


def test_the_sensor_has_the_months_built_and_brought_up_to_date(
    indexed: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    assert tick_of_sensor(defs, SENSOR, instance).skip_message == "no generation is being built"
    begin()
    mistyped = ["hello", "2024-13 of generation 2"]
    instance.add_dynamic_partitions(generation_months.name or "", mistyped)
    for key in mistyped:
        result = run(defs, instance, key)
        assert "choose a partition of the list, such as 20" in str(result.get_step_failure_events())
    instance.create_run_for_job(
        defs.resolve_job_def(BUILD_GENERATION),
        status=dg.DagsterRunStatus.STARTED,
        tags={PARTITION_TAG: mistyped[1]},
    )
    tick = tick_of_sensor(defs, SENSOR, instance)
    assert all(map(parse_key, instance.get_dynamic_partitions(generation_months.name or "")))
    keys = ["2024-02 of generation 2", "2024-01 of generation 2"]
    assert requested(tick) == keys
    for key in keys:
        result = run(defs, instance, key)
        assert result.success
        (event,) = result.asset_materializations_for_node(ASSET)
        assert event.metadata["documents_taken_over"].value == 1
        assert event.metadata["dense_vectors"].value == event.metadata["chunks"].value > 0
        assert event.metadata["embedder"].value == "wide-96-96"
    tick = tick_of_sensor(defs, SENSOR, instance, tick.cursor)
    assert requested(tick) == []
    assert tick.skip_message == "generation 2: 0 months to build; none is due"
    # An edit is followed.
    indexed.write("b.md", "2024-02-05", "# 別の見出し\n\n別の本文。\n")
    indexed.ingest()
    assert requested(tick_of_sensor(defs, SENSOR, instance, tick.cursor)) == keys[:1]
    assert run(defs, instance, keys[0]).success
    with Pipeline(load_settings()) as pipeline:
        switching.switch(pipeline)
        # The job of the live generation's months goes on with it, and the sensor of the months.
        assert show_months(instance, pipeline) == {Month(2024, 1), Month(2024, 2)}
    assert tick_of_sensor(defs, SENSOR, instance).skip_message == "no generation is being built"
    result = run(defs, instance, keys[0])
    assert not result.success
    assert "Generation 2 is live: there is nothing to build." in str(result.get_step_failure_events())
    index_month = defs.resolve_job_def("index_month")
    assert index_month.execute_in_process(partition_key="2024-02-01", instance=instance).success


def test_a_failed_run_of_a_generation_that_is_no_longer_built_is_no_alert(
    indexed: CodeLocation, defs: dg.Definitions
) -> None:
    repository = defs.get_repository_def()
    failing = Subject("run", f"{BUILD_GENERATION}", "2024-01 of generation 2")

    def is_gone(*built: int) -> bool:
        file = read_sources(load_settings().sources)
        return GoneSubjects(repository, "rag_pipeline", file, [], None, built)(failing)

    assert not is_gone(2)
    assert is_gone()
    assert is_gone(3)
    for key in (
        "somebody else's 2024-01 of generation 2",
        "2024-13 of generation 2",
        f"2024-01 of generation {'9' * 20}",
    ):
        assert parse_key(key) is None


def test_the_command_builds_by_runs_that_dagster_records(
    indexed: CodeLocation, instance: dg.DagsterInstance
) -> None:
    from rag_pipeline.defs.run_month import build_generation_month
    from rag_pipeline.generations.build import build

    with Pipeline(load_settings(embedder=WIDE)) as pipeline:
        row = registry.begin(pipeline)
        built = build(pipeline, row, run=build_generation_month)
    assert built.errors == []
    assert built.stats.documents == 2
    runs = instance.get_runs(dg.RunsFilter(job_name=BUILD_GENERATION))
    assert {run.tags["dagster/partition"] for run in runs} == {
        "2024-01 of generation 2",
        "2024-02 of generation 2",
    }
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    origins = {run.remote_job_origin.job_name for run in runs if run.remote_job_origin}
    assert origins == {BUILD_GENERATION}
