"""An index of its own for a test: a folder of documents, a database, collections with a prefix, a cheap embedder."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.indexing.ingest import IngestResult, ingest
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.vector_ids import row_ids
from rag_pipeline_tests.embedders import CheapEmbedder


class Index:
    """The index of a test; `ingest` opens a new pipeline each time, as a new process would."""

    def __init__(self, folder: Path, endpoints: Endpoints, prefix: str) -> None:
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.sources = folder / "sources.yaml"
        self.sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs}]\n", "utf-8")
        self.endpoints = endpoints
        self.prefix = prefix
        self.embedder = CheapEmbedder()

    def settings(self, **overrides: object) -> Settings:
        return load_settings(
            **{
                "home": self.docs.parent / "home",
                "sources": self.sources,
                "milvus_prefix": self.prefix,
                "batch_size": 16,
                "chunk_tokens": 64,
                **overrides,
            }
        )

    def open(self, **overrides: object) -> Pipeline:
        # Its own embedder, and not one by name, which is loaded once per process: a test counts what it was asked.
        pipeline = Pipeline(self.settings(**overrides), self.endpoints, embedder=self.embedder)
        pipeline.prepare()
        return pipeline

    def ingest(self, **arguments: object) -> IngestResult:
        with self.open() as pipeline:
            return ingest(pipeline, **arguments)  # type: ignore[arg-type]

    def write(self, name: str, text: str, date: str = "2024-03-05") -> Path:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"---\ndate: {date}\n---\n{text}", "utf-8")
        return path

    def rows(self, sql: str, *values: object) -> list[tuple]:
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            return connection.execute(sql, values).fetchall()  # type: ignore[arg-type]

    def vector_ids(self, kind: str, month: Month | None = None) -> set[str]:
        """The keys that a collection holds."""
        with self.open() as pipeline:
            name = pipeline.collections.generations[kind].name  # type: ignore[index]
            with pipeline.stores.milvus.client() as client:
                if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
                    return set()
                found = client.query(
                    name,
                    filter="",
                    limit=10_000,
                    output_fields=["id"],
                    partition_names=[month.milvus_partition] if month else None,
                    timeout=TIMEOUT_SECONDS,
                )
        return {row["id"] for row in found}

    def expected_ids(self, kind: str) -> set[str]:
        """The keys that a collection should hold, by PostgreSQL."""
        rows = self.rows("SELECT id, multi_vector_count FROM document_chunks WHERE live")
        return {key for chunk, count in rows for key in row_ids(kind, chunk, count)}

    def assert_true(self) -> None:
        """Nothing is missing, nothing is twice, nothing is left behind, nothing is stuck."""
        for kind in ("dense", "sparse", "multi"):
            assert self.vector_ids(kind) == self.expected_ids(kind), kind
        assert self.rows("SELECT id FROM vector_deletions") == []
        stuck = "SELECT id FROM document_chunks WHERE embedding_status <> 'completed' OR NOT live OR retired"
        assert self.rows(stuck) == []
        statuses = self.rows("SELECT DISTINCT processing_status, indexing_status FROM documents")
        assert statuses in ([("completed", "completed")], [])
        doubles = "SELECT document_id, position FROM document_chunks GROUP BY 1, 2 HAVING count(*) > 1"
        assert self.rows(doubles) == []
        terms = """
            SELECT term, sum(chunks) FROM term_statistics GROUP BY term HAVING sum(chunks) <> 0
            EXCEPT
            SELECT word, count(*) FROM document_chunks, unnest(tsvector_to_array(content_words) || ARRAY['']) AS word
            WHERE live GROUP BY word
        """
        assert self.rows(terms) == []


@pytest.fixture
def index(
    tmp_path: Path, stack_endpoints: Endpoints, database_url: str, redis_url: str, milvus_prefix: str
) -> Index:
    return Index(tmp_path, Endpoints(database_url, stack_endpoints.milvus_uri, redis_url), milvus_prefix)
