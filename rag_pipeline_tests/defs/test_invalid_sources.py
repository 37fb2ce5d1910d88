"""A mistake in `sources.yaml` stops the source that has it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from rag_pipeline.defs.build import build_defs
from rag_pipeline.months import Month
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.defs.ticks import tick_of_sensor
from rag_pipeline_tests.support.code_location import CodeLocation

GOOD = "{name: docs, type: filesystem, path: ./docs}"
SOURCES = "SELECT name, is_active FROM sources ORDER BY name"


@pytest.fixture
def write_sources(location: CodeLocation) -> Callable[[str], Path]:
    path = load_settings().sources

    def write(text: str) -> Path:
        path.write_text(text, "utf-8")
        return path

    return write


def sensors(defs: dg.Definitions) -> set[str]:
    return {sensor.name for sensor in defs.get_repository_def().sensor_defs}


def failure(defs: dg.Definitions, name: str, instance: dg.DagsterInstance) -> str:
    with pytest.raises(Exception, match=r"sources\.yaml") as raised:
        tick_of_sensor(defs, name, instance)
    return str(raised.value)


def test_a_source_with_a_mistake_fails_alone(
    location: CodeLocation, instance: dg.DagsterInstance, write_sources: Callable[[str], Path]
) -> None:
    write_sources(f"sources: [{GOOD}, {{name: faq, type: filesystem, path: ./docs/faq}}]")
    location.write("a.md", "2024-01-05")
    location.write("faq/b.md", "2024-01-06")
    location.ingest()
    write_sources(f"sources: [{GOOD}, {{name: faq, type: filesystem, pth: ./docs/faq}}, 7]")
    location.write("c.md", "2024-02-05")
    defs = build_defs()
    assert "unknown key 'pth': did you mean path?" in failure(defs, "sync_faq", instance)
    assert "source 3: must be a mapping" in failure(defs, "sources_file", instance)
    location.sql("UPDATE sources SET next_sync_at = NULL")
    assert "1 new" in (tick_of_sensor(defs, "sync_docs", instance).skip_message or "")
    requests = tick_of_sensor(defs, "index_pending_months", instance).run_requests or ()
    assert [request.partition_key for request in requests] == [Month(2024, 2).partition_key]
    assert location.sql(SOURCES) == [("docs", True), ("faq", True)]
    # The graph still shows where the documents of the source come from.
    assert dg.AssetKey(["sources", "faq"]) in defs.resolve_asset_graph().get_all_asset_keys()


def test_pending_items_of_a_source_with_a_mistake_stay_pending(
    location: CodeLocation, instance: dg.DagsterInstance, write_sources: Callable[[str], Path]
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    for text in ("sources: [{name: docs, type: filesystem, pth: ./docs}]", "sources: ["):
        write_sources(text)
        defs = build_defs()
        tick_of_sensor(defs, "index_pending_months", instance)
        key = Month(2024, 1).partition_key
        assert defs.resolve_job_def("index_month").execute_in_process(partition_key=key, instance=instance).success
        assert location.sql("SELECT state FROM source_items") == [("pending",)]
        assert location.sql(SOURCES) == [("docs", True)]
    write_sources(f"sources: [{GOOD}]")
    location.ingest()
    assert location.sql("SELECT state FROM source_items") == [("ingested",)]


def test_without_a_readable_file_the_location_loads_and_one_sensor_says_why(
    location: CodeLocation, instance: dg.DagsterInstance, write_sources: Callable[[str], Path]
) -> None:
    location.write("a.md", "2024-01-05")
    location.ingest()
    alive = sensors(build_defs()) - {"sync_docs"}
    assert {"index_pending_months", "drain_vector_deletions", "alerts", "sources_file"} <= alive
    path = write_sources("sources: [\n")
    defs = build_defs()
    assert sensors(defs) == alive
    assert "line 2, column 1" in failure(defs, "sources_file", instance)
    tick_of_sensor(defs, "index_pending_months", instance)
    assert location.sql(SOURCES) == [("docs", True)]
    path.unlink()
    assert "does not exist" in failure(build_defs(), "sources_file", instance)
    write_sources(f"sources: [{GOOD}]")
    defs = build_defs()
    assert sensors(defs) == alive | {"sync_docs"}
    assert tick_of_sensor(defs, "sources_file", instance).skip_message == "valid sources: 1"


def test_two_entries_of_one_name_are_one_source_and_a_mistake(
    location: CodeLocation, instance: dg.DagsterInstance, write_sources: Callable[[str], Path]
) -> None:
    write_sources(f"sources: [{GOOD}, {GOOD}, {{name: a, type: x, path: b}}, {{name: a, type: y, path: b}}]")
    defs = build_defs()
    assert "source docs: duplicate name" in failure(defs, "sources_file", instance)
    assert "0 items" in (tick_of_sensor(defs, "sync_docs", instance).skip_message or "")
    assert "unknown type" in failure(defs, "sync_a", instance)
