"""A month's run in the process of `rag-pipeline ingest`, as the UI shows it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from rag_pipeline.defs.run_month import run_month
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.code_location import CodeLocation

WORKSPACE = Path(__file__).parents[2] / "workspace.yaml"


def test_it_belongs_to_the_code_location_and_counts_the_chunks_that_it_made(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    location.write("a.md", "2024-01-05")
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        assert ingest(pipeline, run=run_month).errors == []
    [run] = instance.get_runs()
    assert run.remote_job_origin is not None, "the timeline leaves out runs without one"
    [place] = yaml.safe_load(WORKSPACE.read_text("utf-8"))["load_from"]
    assert run.remote_job_origin.location_name == place["python_module"]["location_name"]
    assert run.remote_job_origin.job_name == "index_month"
    assert run.tags["dagster/max_retries"] == "0", "the daemon does not repeat what the sensor repeats"
    for asset, chunks in (("documents", [None]), ("document_chunks", [1])):
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        newest = event.asset_materialization.metadata["newest_documents"]
        assert isinstance(newest, dg.TableMetadataValue)
        assert [record.data.get("chunks") for record in newest.records] == chunks
