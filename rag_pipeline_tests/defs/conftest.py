"""The code location on the real stores, and a Dagster instance in the same PostgreSQL, as a deployment has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings


class Place:
    """A folder of documents and this process's RAG_* variables, which sensors, schedules and runs read."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        self.docs = folder / "docs"
        self.postgres_url = postgres_url

    def write(self, name: str, date: str, text: str = "# 見出し\n\n索引を正しく保つ。\n") -> Path:
        path = self.docs / name
        path.write_text(f"---\ndate: {date}\n---\n{text}", "utf-8")
        return path

    def scan(self) -> None:
        """What exists becomes pending work; nothing is run."""
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            ingest(pipeline, run=lambda pipeline, month: MonthRun())

    def ingest(self) -> None:
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            result = ingest(pipeline)
        assert result.errors == []

    def sql(self, statement: str, *values: object) -> list[tuple]:
        with psycopg.connect(self.postgres_url) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def stored(self, month: Month) -> dict[str, int]:
        """The rows that each collection holds of a month."""
        with Pipeline(load_settings()) as pipeline:
            return {kind: pipeline.collections.stored(kind, month) for kind in pipeline.settings.vectors}

    def milvus_months(self) -> dict[str, set[Month]]:
        """The months that each collection has a partition of."""
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


@pytest.fixture
def place(
    tmp_path: Path,
    stack_endpoints: Endpoints,
    database_url: str,
    redis_url: str,
    milvus_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    (tmp_path / "docs").mkdir()
    sources = tmp_path / "sources.yaml"
    sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs}]\n", "utf-8")
    variables = {
        "RAG_HOME": tmp_path / "home",
        "RAG_SOURCES": sources,
        "RAG_POSTGRES_URL": database_url,
        "RAG_MILVUS_URI": stack_endpoints.milvus_uri,
        "RAG_REDIS_URL": redis_url,
        "RAG_MILVUS_PREFIX": milvus_prefix,
        "RAG_EMBEDDER": "rag_pipeline_tests.embedders:cheap",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return Place(tmp_path, database_url)


@pytest.fixture
def instance(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance whose storage is PostgreSQL."""
    settings = load_settings()
    with Pipeline(settings) as pipeline:
        pipeline.prepare()
    urls = Endpoints(place.postgres_url, "", "")
    for name, value in dagster_environment(settings, urls).items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
        yield instance


@pytest.fixture
def defs(place: Place) -> dg.Definitions:
    from rag_pipeline.defs.build import build_defs

    return build_defs()
