"""An index made by the real write path, on files that a test writes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings
from rag_pipeline.stores.postgres import schema
from rag_pipeline_tests.milvus_client import drop_collections

CHEAP = "rag_pipeline_tests.embedders:cheap"


class Index:
    """A folder of documents, and the pipeline over it."""

    def __init__(self, folder: Path, endpoints: Endpoints, prefix: str, embedder: str) -> None:
        self.endpoints = endpoints
        self._prefix, self._embedder = prefix, embedder
        self._sources = folder / "sources.yaml"
        self._documents = folder / "documents"
        self._documents.mkdir()
        self._sources.write_text("sources:\n  - name: docs\n    type: filesystem\n    path: ./documents\n")
        self.pipeline = self.opened()

    def opened(self, **settings: Any) -> Pipeline:
        """A pipeline over the same stores, with other settings."""
        chosen = {"embedder": self._embedder, "milvus_prefix": self._prefix, "chunk_tokens": 200, **settings}
        return Pipeline(Settings(sources=self._sources, **chosen), self.endpoints)

    def write(self, name: str, text: str, date: str = "2024-01-10", language: str | None = None) -> None:
        front = f"---\ndate: {date}\n" + (f"language: {language}\n" if language else "") + "---\n"
        (self._documents / name).write_text(front + text)

    def delete(self, name: str) -> None:
        (self._documents / name).unlink()

    def ingest(self, *, up_to: str = "vectors") -> None:
        """Run the write path of every month, or only its first steps: `documents`, `chunks`, `vectors`."""
        scan_source(self.pipeline, self.pipeline.source("docs"), confirm_deletions=True)
        for month in schema.existing_months(self.pipeline.stores.database):
            self._run(month, up_to)

    def _run(self, month: Month, up_to: str) -> None:
        ingest_documents(self.pipeline, month)
        if up_to != "documents":
            chunk_documents(self.pipeline, month)
        if up_to == "vectors":
            assert not index_vectors(self.pipeline, month).failed

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.pipeline.stores.database.connection() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def new_index(folder: Path, endpoints: Endpoints, embedder: str = CHEAP) -> Iterator[Index]:
    """An index without documents, not even its tables are made; gone afterwards.

    Not by the fixtures for a clean part of each server: those last for one test, and most tests here only read.
    """
    name = f"search_{secrets.token_hex(6)}"
    with psycopg.connect(endpoints.postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = endpoints.postgres_url.rpartition("/")[0] + "/" + name
    index = Index(folder, Endpoints(url, endpoints.milvus_uri, endpoints.redis_url), f"{name}_", embedder)
    try:
        with index.pipeline:
            yield index
    finally:
        with psycopg.connect(endpoints.postgres_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        drop_collections(endpoints.milvus_uri, f"{name}_")


def fill(index: Index) -> None:
    """A few documents of several months and languages."""
    index.pipeline.prepare()
    index.write("vacuum.md", "# 掃除\n\nPostgreSQL の VACUUM は、不要になった行の領域を回収する。", "2024-01-31")
    index.write("backup.md", "# バックアップ\n\n毎晩、全体の複製を別の建物へ送る。", "2024-02-01")
    index.write("recipe.md", "# 味噌汁\n\n出汁を取り、豆腐とわかめを入れ、味噌を溶く。", "2024-02-15")
    index.write("travel.md", "# Travel\n\nThe night train to Sapporo leaves Ueno at seven.", "2023-06-01", "en")
    index.ingest()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, stack_endpoints: Endpoints) -> Iterator[Index]:
    """A few documents by the cheap embedder, for tests that only search."""
    with new_index(tmp_path_factory.mktemp("shared"), stack_endpoints) as index:
        fill(index)
        yield index


@pytest.fixture
def index(tmp_path: Path, stack_endpoints: Endpoints) -> Iterator[Index]:
    """The same documents, for a test that changes them."""
    with new_index(tmp_path, stack_endpoints) as index:
        fill(index)
        yield index
