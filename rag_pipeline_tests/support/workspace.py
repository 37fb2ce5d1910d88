"""A folder of documents, its sources.yaml, and the settings that index it into a test's own stores."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from rag_pipeline.settings import Settings, load_settings
from rag_pipeline_tests.support.stores import Stores

CHEAP = "rag_pipeline_tests.support.embedders:cheap"
SLOW = "rag_pipeline_tests.support.embedders:slow"


class Workspace:
    """What the harnesses for pipelines, commands and Dagster build on.

    `variables` are the RAG_* variables that a process needs to work on these documents.
    """

    def __init__(self, folder: Path, stores: Stores, embedder: str = CHEAP) -> None:
        self.folder = folder
        self.endpoints = stores.endpoints
        self.prefix = stores.prefix
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.sources = folder / "sources.yaml"
        self.sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs}]\n", "utf-8")
        self.variables = {
            "RAG_HOME": str(folder / "home"),
            "RAG_SOURCES": str(self.sources),
            "RAG_POSTGRES_URL": stores.endpoints.postgres_url,
            "RAG_MILVUS_URI": stores.endpoints.milvus_uri,
            "RAG_REDIS_URL": stores.endpoints.redis_url,
            "RAG_MILVUS_PREFIX": stores.prefix,
            "RAG_EMBEDDER": embedder,
        }

    def settings(self, **overrides: object) -> Settings:
        """Return what `variables` set, in this process, with these fields changed."""
        fields: dict[str, object] = {
            name.removeprefix("RAG_").lower(): value for name, value in self.variables.items()
        }
        return load_settings(**fields | overrides)

    def write(self, name: str, text: str, date: str = "2024-03-05", language: str | None = None) -> Path:
        """Write a Markdown document with front matter."""
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        front = f"date: {date}\n" + (f"language: {language}\n" if language else "")
        path.write_text(f"---\n{front}---\n{text}", "utf-8")
        return path

    def delete(self, name: str) -> None:
        (self.docs / name).unlink()

    def rows(self, sql: str, *values: object) -> list[tuple]:
        """Run a statement and return its rows; an empty list if it has none."""
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            cursor = connection.execute(sql, values or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


def clean_environment() -> dict[str, str]:
    """Return this process's environment without variables of ours or Dagster's, for a child process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER_"))}
    return environment | {"PYTHONPATH": str(Path(__file__).parents[2])}
