"""An index in a test's own stores, with an embedder that counts."""

from __future__ import annotations

from pathlib import Path

import psycopg

from rag_pipeline.indexing.ingest import IngestResult, ingest
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.index_state import assert_vectors_match, expected_ids, stored_ids
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace


def section(name: str) -> str:
    """A section of a document."""
    return f"## {name}\n\n{name}の本文。索引を正しく保つ方法を述べる。"


def sections(*names: str) -> str:
    """A document with sections that are large enough for a chunk each."""
    return "\n\n".join(["# 見出し", *map(section, names)]) + "\n"


class Index(Workspace):
    """The index of a test. `ingest` opens a new pipeline each time, as a new process would."""

    def __init__(self, folder: Path, stores: Stores) -> None:
        super().__init__(folder, stores)
        self.embedder = CheapEmbedder()

    def settings(self, **overrides: object) -> Settings:
        return super().settings(**{"batch_size": 16, "chunk_tokens": 64, **overrides})

    def open(self, **overrides: object) -> Pipeline:
        # Its own embedder, and not one by name, which is loaded once per process: a test counts what it was asked.
        pipeline = Pipeline(self.settings(**overrides), self.endpoints, embedder=self.embedder)
        pipeline.prepare()
        return pipeline

    def ingest(self, **arguments: object) -> IngestResult:
        with self.open() as pipeline:
            return ingest(pipeline, **arguments)  # type: ignore[arg-type]

    def collections(self) -> dict[str, str]:
        """Return the name of each kind's collection."""
        with self.open() as pipeline:
            return {kind: generation.name for kind, generation in pipeline.collections.generations.items()}

    def vector_ids(self, kind: str, month: Month | None = None) -> set[str]:
        """Return the keys that a collection holds."""
        return set(stored_ids(self.endpoints.milvus_uri, self.collections()[kind], month))

    def expected_ids(self, kind: str) -> set[str]:
        """Return the keys that a collection should hold according to PostgreSQL."""
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            return expected_ids(connection, kind)

    def assert_consistent(self) -> None:
        """Nothing is missing, duplicated, left over or unfinished."""
        assert_vectors_match(self.endpoints, self.collections())
        statuses = self.rows("SELECT DISTINCT processing_status, indexing_status FROM documents")
        assert statuses in ([("completed", "completed")], [])
        duplicates = "SELECT document_id, position FROM document_chunks GROUP BY 1, 2 HAVING count(*) > 1"
        assert self.rows(duplicates) == []
        wrong_terms = """
            SELECT term, month, source, chunks FROM term_statistics WHERE chunks <> 0
            EXCEPT
            SELECT word, date_trunc('month', i.document_created_at AT TIME ZONE 'UTC')::date, i.source, count(*)
            FROM document_chunks c JOIN source_items i USING (document_id),
                unnest(tsvector_to_array(c.content_words) || ARRAY['']) AS word
            WHERE live GROUP BY 1, 2, 3
        """
        assert self.rows(wrong_terms) == []
