"""A small consistent index that a test damages behind the pipeline's back, with its checker and its repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
from pymilvus import MilvusClient

from rag_pipeline.consistency.checker import Consistency, DataConsistencyChecker
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.consistency.repair import RepairResult, repair
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline_tests.support.index import Index
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import temporary_stores

MARCH, APRIL = Month(2024, 3), Month(2024, 4)
_REDIS_NUMBER = 2


class DamagedIndex:
    """An index with a handful of documents in March 2024 and one in April, and ways to damage each store.

    `consistent` is False until the test has it repaired.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.consistent = False
        self._write()
        index.ingest()
        index.assert_consistent()
        self.begin()

    def _write(self) -> None:
        for path in self.index.docs.iterdir():
            path.unlink()
        for n in range(6):
            paragraphs = "\n\n".join(
                f"## 第{p}節\n\n文書{n}の段落{p}。索引を正しく保つ方法を述べる。" for p in range(6)
            )
            self.index.write(f"march{n}.md", f"# 文書{n}\n\n{paragraphs}\n", "2024-03-05")
        self.index.write(
            "april.md",
            "# 四月\n\n四月の本文は決して短くはない。\n\n## 二\n\nもう一つの段落も短くはない。\n",
            "2024-04-02",
        )

    def restore(self) -> None:
        """Bring back the documents that the next test expects."""
        self.index.embedder.poison = None
        self._write()
        self.index.ingest(retry_failed=True, confirm_deletions=True)
        self.warm_cache()
        self.repaired()

    def begin(self) -> None:
        """Start the next test."""
        self.consistent = False
        self.asked = self.index.embedder.texts

    def warm_cache(self) -> None:
        """Put the vectors of all chunks into `embedding_cache`."""
        from rag_pipeline.embedding.cache import encode_cached

        texts = [
            text for (text,) in self.index.rows("SELECT coalesce(embedding_text, content) FROM document_chunks")
        ]
        with self.index.open() as pipeline:
            encode_cached(pipeline.embedder, pipeline.cache, texts, pipeline.settings.vectors)

    def sql(self, statement: str, *values: object) -> int:
        """Run a statement without foreign keys and triggers; return the number of rows."""
        with psycopg.connect(self.index.endpoints.postgres_url) as connection:
            connection.execute("SET session_replication_role = replica")
            return connection.execute(statement, values).rowcount  # type: ignore[arg-type]

    @contextmanager
    def milvus(self) -> Iterator[MilvusClient]:
        with milvus_client(self.index.endpoints.milvus_uri) as client:
            yield client

    def collection(self, kind: str) -> str:
        return self.index.collections()[kind]

    def check(self, *months: Month) -> Consistency:
        with self.index.open() as pipeline:
            return DataConsistencyChecker(pipeline).check_consistency(months or None)

    def only(self, check: str) -> list[Finding]:
        """Return what a check finds, after asserting that all of it is of this kind."""
        found = self.check()
        assert found.findings == found.of(check), [str(finding) for finding in found.findings]
        assert not found.consistent
        return found.of(check)

    def repair(self, *months: Month) -> RepairResult:
        with self.index.open() as pipeline:
            return repair(pipeline, months or None)

    def repaired(self) -> RepairResult:
        """Repair, and assert that every check passes and the index is consistent."""
        result = self.repair()
        assert result.remaining.findings == [], [str(finding) for finding in result.remaining.findings]
        assert self.check().findings == []
        self.index.assert_consistent()
        self.consistent = True
        return result

    @property
    def embedded(self) -> int:
        """The number of texts embedded since the test began."""
        return self.index.embedder.texts - self.asked

    def empty_cache(self) -> None:
        with redis.Redis.from_url(self.index.endpoints.redis_url) as client:
            client.flushdb()

    def chunks(self, month: Month = MARCH) -> list[Any]:
        rows = self.index.rows(
            "SELECT id::text FROM document_chunks WHERE document_created_at >= %s AND document_created_at < %s "
            "ORDER BY id",
            month.start,
            month.end,
        )
        return [chunk for (chunk,) in rows]


class SharedIndex:
    """Hands one index from test to test, and replaces it after a test that left it damaged."""

    def __init__(self, servers: Endpoints, make_folder: Callable[[], Path]) -> None:
        self._servers = servers
        self._make_folder = make_folder
        self._removal = ExitStack()
        self._index: DamagedIndex | None = None

    def take(self) -> DamagedIndex:
        if self._index is None or not self._index.consistent:
            self.remove()
            stores = temporary_stores(self._servers, "damaged", redis_number=_REDIS_NUMBER)
            self._index = DamagedIndex(Index(self._make_folder(), self._removal.enter_context(stores)))
        self._index.begin()
        return self._index

    def remove(self) -> None:
        self._index = None
        self._removal.close()
