"""An index whose generations a test builds, exchanges and drops, with embedders of different dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from rag_pipeline.generations import build, registry
from rag_pipeline.indexing.ingest import IngestResult, ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.stores.postgres.generations import GenerationRow
from rag_pipeline_tests.support.index_state import stored_ids
from rag_pipeline_tests.support.workspace import Workspace

WIDE = "rag_pipeline_tests.support.embedders:wide"
KINDS = ("dense", "sparse", "multi")


class GenerationIndex(Workspace):
    """`opened` is a process with the settings that made the first generation, unless told otherwise."""

    @contextmanager
    def opened(self, **settings: object) -> Iterator[Pipeline]:
        with Pipeline(self.settings(**{"chunk_tokens": 64, **settings}), self.endpoints) as pipeline:
            pipeline.prepare()
            yield pipeline

    def ingest(self, **settings: object) -> IngestResult:
        with self.opened(**settings) as pipeline:
            return ingest(pipeline)

    def build(self, **settings: object) -> GenerationRow:
        """Begin or continue a generation of the other embedder, and build all of it."""
        with self.opened(**{"embedder": WIDE, **settings}) as pipeline:
            row = registry.begin(pipeline)
            assert build.build(pipeline, row).errors == []
        return row

    def found(self, query: str, mode: str = "hybrid", **settings: object) -> list[str]:
        """Return the source_ids of what a search finds."""
        with self.opened(**settings) as pipeline:
            return [hit.source_id for hit in search(pipeline, query, mode=mode).hits]  # type: ignore[arg-type]

    def states(self) -> dict[int, str]:
        """Return the state of each generation."""
        return dict(self.rows("SELECT id, state FROM generations ORDER BY id"))  # type: ignore[arg-type]

    def collection(self, row: GenerationRow, kind: str) -> str:
        return f"{self.prefix}{kind}_{row.collections}"

    def assert_complete(self, row: GenerationRow) -> None:
        """A generation has every document of the live one, whole, and its vectors are those of its chunks."""
        tables = "public" if self.states()[row.id] == "live" else f"public_generation_{row.id}"
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            missing = f"""
                SELECT d.id FROM documents d
                FULL JOIN {tables}.documents g ON g.id = d.id AND g.created_at = d.created_at
                WHERE (d.title, d.content, d.language) IS DISTINCT FROM (g.title, g.content, g.language)
                    OR g.processing_status <> 'completed' OR g.indexing_status <> 'completed'
            """
            assert connection.execute(missing).fetchall() == []
            connection.execute(f"SET search_path TO {tables}, public")
            unfinished = (
                "SELECT id FROM document_chunks WHERE NOT live OR superseded OR embedding_status <> 'completed'"
            )
            assert connection.execute(unfinished).fetchall() == []
            chunks = dict(
                connection.execute("SELECT id::text, multi_vector_count FROM document_chunks").fetchall()
            )
            assert chunks or not connection.execute("SELECT id FROM documents").fetchall()
            words = """
                SELECT coalesce(sum(chunks) FILTER (WHERE term = ''), 0), count(*) FILTER (WHERE chunks < 0)
                FROM term_statistics
            """
            assert connection.execute(words).fetchone() == (len(chunks), 0)
        for kind in KINDS:
            expected = (
                {f"{chunk}_multi_{n}" for chunk, count in chunks.items() for n in range(count)}
                if kind == "multi"
                else {f"{chunk}_{kind}" for chunk in chunks}
            )
            stored = stored_ids(self.endpoints.milvus_uri, self.collection(row, kind))
            assert set(stored) == expected, kind
            assert set(stored.values()) <= {1}
