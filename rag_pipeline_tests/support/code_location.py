"""The code location on a test's own stores: documents, and the RAG_* variables of this process."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.workspace import Workspace

YEARLY = "0 0 1 1 *"


class CodeLocation:
    """A workspace whose variables are set in this process, where sensors, schedules and runs read them."""

    def __init__(self, workspace: Workspace) -> None:
        self.docs = workspace.docs
        self.postgres_url = workspace.endpoints.postgres_url
        self._workspace = workspace

    def write(self, name: str, date: str, text: str = "# 見出し\n\n索引を正しく保つ。\n") -> Path:
        return self._workspace.write(name, text, date)

    def scan_yearly(self) -> CodeLocation:
        """Let a scan be followed by no other: the default schedule could make it due again while a test runs."""
        self._workspace.sources.write_text(
            f"sources: [{{name: docs, type: filesystem, path: ./docs, schedule: {YEARLY!r}}}]\n", "utf-8"
        )
        return self

    def scan(self) -> None:
        """Make what exists pending, and run nothing."""
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            ingest(pipeline, run=lambda pipeline, month, run: None)

    def ingest(self) -> None:
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            result = ingest(pipeline)
        assert result.errors == []

    def only_run(self, instance: dg.DagsterInstance) -> dg.DagsterRun:
        """Ingest a document as the command line does, and return the run of its month."""
        from rag_pipeline.defs.run_month import run_month

        self.write("a.md", "2024-01-05")
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            assert ingest(pipeline, run=run_month).errors == []
        [run] = instance.get_runs()
        return run

    def show_months(self, instance: dg.DagsterInstance) -> None:
        """Make the months that exist known to Dagster, as the sensor does before it requests their runs."""
        from rag_pipeline.defs.month_partitions import show_months

        with Pipeline(load_settings()) as pipeline:
            show_months(instance, pipeline)

    def sql(self, statement: str, *values: object) -> list[tuple]:
        return self._workspace.rows(statement, *values)

    def stored(self, month: Month) -> dict[str, int]:
        """Return the number of rows that each collection holds of a month."""
        with Pipeline(load_settings()) as pipeline:
            return {kind: pipeline.collections.stored(kind, month) for kind in pipeline.settings.vectors}

    def milvus_months(self) -> dict[str, set[Month]]:
        """Return the months that each collection has a partition for."""
        with Pipeline(load_settings()) as pipeline, pipeline.stores.milvus.client() as client:
            return {
                kind: {
                    month
                    for name in client.list_partitions(generation.name)
                    if (month := Month.from_milvus_partition(name)) is not None
                }
                for kind, generation in pipeline.collections.generations.items()
            }

    def release_collections(self) -> None:
        with Pipeline(load_settings()) as pipeline, pipeline.stores.milvus.client() as client:
            for generation in pipeline.collections.generations.values():
                client.release_collection(generation.name)
