"""A small index that is true, for tests that spoil it behind its back."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymilvus import MilvusClient

from rag_pipeline.consistency.checker import Consistency, DataConsistencyChecker
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.consistency.repair import RepairResult, repair
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline_tests.indexing.conftest import Index
from rag_pipeline_tests.milvus_client import milvus_client

MARCH, APRIL = Month(2024, 3), Month(2024, 4)


class Spoiled:
    """An index, a hand in each of its stores, and its checker and repair.

    Made once and handed from test to test as long as each leaves it repaired.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.true = False
        self._write()
        index.ingest()
        index.assert_true()
        self.begin()

    def _write(self) -> None:
        for path in self.index.docs.iterdir():
            path.unlink()
        for n in range(6):
            paragraphs = "\n\n".join(
                f"## 第{p}節\n\n文書{n}の段落{p}。索引を正しく保つ方法を述べる。" for p in range(5)
            )
            self.index.write(f"march{n}.md", f"# 文書{n}\n\n{paragraphs}\n", "2024-03-05")
        self.index.write("april.md", "# 四月\n\n四月の本文。\n\n## 二\n\nもう一つの段落。\n", "2024-04-02")

    def restore(self) -> None:
        """The documents that the next test expects."""
        self.index.embedder.poison = None
        self._write()
        self.index.ingest(retry_failed=True, confirm_deletions=True)
        self.warm_cache()
        self.repaired()

    def begin(self) -> None:
        """For the next test; true again once it is repaired."""
        self.true = False
        self.asked = self.index.embedder.texts

    def warm_cache(self) -> None:
        """Have the vectors of all chunks in `embedding_cache` again."""
        from rag_pipeline.embedding.cache import encode_cached

        texts = [
            text for (text,) in self.index.rows("SELECT coalesce(embedding_text, content) FROM document_chunks")
        ]
        with self.index.open() as pipeline:
            encode_cached(pipeline.embedder, pipeline.cache, texts, pipeline.settings.vectors)

    def sql(self, statement: str, *values: object) -> int:
        """Run a statement as a careless administrator would: no foreign key and no trigger minds."""
        with psycopg.connect(self.index.endpoints.postgres_url) as connection:
            connection.execute("SET session_replication_role = replica")
            return connection.execute(statement, values).rowcount  # type: ignore[arg-type]

    @contextmanager
    def milvus(self) -> Iterator[MilvusClient]:
        with milvus_client(self.index.endpoints.milvus_uri) as client:
            yield client

    def collection(self, kind: str) -> str:
        with self.index.open() as pipeline:
            return pipeline.collections.generations[kind].name  # type: ignore[index]

    def check(self, *months: Month) -> Consistency:
        with self.index.open() as pipeline:
            return DataConsistencyChecker(pipeline).check_consistency(months or None)

    def only(self, check: str) -> list[Finding]:
        """What a check finds, which is of this kind and no other."""
        found = self.check()
        assert found.findings == found.of(check), [str(finding) for finding in found.findings]
        assert not found.consistent
        return found.of(check)

    def repair(self, *months: Month) -> RepairResult:
        with self.index.open() as pipeline:
            return repair(pipeline, months or None)

    def repaired(self) -> RepairResult:
        """Repair, after which every check passes and the index is true."""
        result = self.repair()
        assert result.remaining.findings == [], [str(finding) for finding in result.remaining.findings]
        assert self.check().findings == []
        self.index.assert_true()
        self.true = True
        return result

    @property
    def embedded(self) -> int:
        """How many texts the embedder was asked for since the index was made."""
        return self.index.embedder.texts - self.asked

    def empty_cache(self) -> None:
        import redis

        with redis.Redis.from_url(self.index.endpoints.redis_url) as client:
            client.flushdb()

    def remove(self, endpoints: Endpoints) -> None:
        """Drop the database and the collections."""
        self.empty_cache()
        with psycopg.connect(endpoints.postgres_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{self.index.prefix.removesuffix("_")}" WITH (FORCE)')
        with self.milvus() as client:
            for name in client.list_collections():
                if name.startswith(self.index.prefix):
                    for alias in client.list_aliases(collection_name=name)["aliases"]:
                        client.drop_alias(alias)
                    client.drop_collection(name)

    def chunks(self, month: Month = MARCH) -> list[Any]:
        rows = self.index.rows(
            "SELECT id::text FROM document_chunks WHERE document_created_at >= %s AND document_created_at < %s "
            "ORDER BY id",
            month.start,
            month.end,
        )
        return [chunk for (chunk,) in rows]


@pytest.fixture(scope="package")
def kept(stack_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Spoiled]]:
    """The index that is handed on, and what is to be removed with it."""
    made: list[Spoiled] = []
    yield made
    for one in made:
        one.remove(stack_endpoints)


@pytest.fixture(autouse=True)
def short_pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker looks twice; nobody writes between, but in the tests where somebody does."""
    if not request.module.__name__.endswith("test_meanwhile"):
        monkeypatch.setattr("rag_pipeline.consistency.row_checks._PAUSE_SECONDS", 0.01)
        monkeypatch.setattr("rag_pipeline.consistency.comparison._PAUSE_SECONDS", 0.01)


@pytest.fixture
def spoiled(kept: list[Spoiled], stack_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    """A true index, with a handful of documents in March 2024 and one in April."""
    if kept and not kept[-1].true:
        kept.pop().remove(stack_endpoints)
    if not kept:
        kept.append(new_index(tmp_path_factory.mktemp("spoiled"), stack_endpoints))
    kept[-1].begin()
    return kept[-1]


def new_index(folder: Path, endpoints: Endpoints) -> Spoiled:
    """In a database and under a prefix of its own."""
    name = f"spoiled_{secrets.token_hex(6)}"
    with psycopg.connect(endpoints.postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    own = [url.rpartition("/")[0] for url in (endpoints.postgres_url, endpoints.redis_url)]
    return Spoiled(Index(folder, Endpoints(f"{own[0]}/{name}", endpoints.milvus_uri, f"{own[1]}/2"), f"{name}_"))
