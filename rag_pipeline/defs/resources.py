"""The pipeline as a Dagster resource: opened for a run, closed at its end."""

from collections.abc import Iterator

import dagster as dg

from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings


@dg.resource(description="Settings, sources, store connections and embedder, from RAG_* variables")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[Pipeline]:
    """Opened from this process's environment; progress goes to the run's log."""

    def progress(stage: str, done: int, total: int | None = None) -> None:
        if context.log:
            context.log.info(f"{stage}: {done}" + (f" of {total}" if total else ""))

    with Pipeline(load_settings(), progress=progress) as pipeline:
        pipeline.prepare()
        yield pipeline


@dg.resource(description="What the steps of this run have done so far")
def month_run_resource(context: dg.InitResourceContext) -> MonthRun:
    """An empty one for each run: the assets add their results to it, and `rag-pipeline ingest` reads its own."""
    return MonthRun()
