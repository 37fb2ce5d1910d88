"""A Ray cluster of several nodes on this machine, and a month that its workers embed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from rag_pipeline.indexing.chunk_documents import ChunksResult, chunk_documents
from rag_pipeline.indexing.index_vectors import VectorsResult, index_vectors
from rag_pipeline.indexing.ingest_documents import DocumentsResult, ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VECTOR_KINDS, Settings
from rag_pipeline_tests.support.index_state import expected_ids, stored_ids
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW, Workspace

MONTH = Month(2024, 3)
BATCH = 16
POISON, KILLER = "毒", "爆"
_NODE_BYTES = 80 * 1024 * 1024
_MOST_SECONDS = 120


class RayCluster:
    """Nodes of one CPU each, and a head without any: a worker each. Their embedder is slow and logs what it embeds."""

    def __init__(self, log: Path) -> None:
        from ray.cluster_utils import Cluster

        self.log = log
        self._cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,  # else it sets signal handlers, and nodes can be added by the main thread only
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _NODE_BYTES},
        )
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def resize(self, nodes: int) -> None:
        """Have so many nodes."""
        while len(self.nodes) > nodes:
            self.kill_node()
        while len(self.nodes) < nodes:
            self.add_node()

    def add_node(self) -> None:
        self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_NODE_BYTES))

    def kill_node(self) -> None:
        """Kill the newest node with SIGKILL."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def worker(self) -> psutil.Process:
        """Return a process that works, as soon as there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            for node in self.nodes:
                raylet = node.all_processes["raylet"][0].process.pid
                for child in psutil.Process(raylet).children():
                    with suppress(psutil.Error, IndexError):
                        if child.cmdline()[0].startswith("ray::Worker.work"):
                            found.append(child)
            return bool(found)

        wait_until(look)
        return found[-1]

    def embedded(self) -> Counter[str]:
        """How often each text was embedded since the log was emptied, by its digest."""
        return Counter(self.log.read_text("utf-8").splitlines())

    def wait_for_embedded(self, texts: int) -> None:
        """Return when so many texts were embedded."""
        wait_until(lambda: self.embedded().total() >= texts)

    def session_files(self) -> Iterator[Path]:
        """What Ray has written."""
        for path in Path(self._cluster.head_node.get_session_dir_path()).rglob("*"):
            if path.is_file():
                yield path

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def ray_cluster(folder: Path, seconds: float = 0.25) -> Iterator[RayCluster]:
    """A cluster whose embedder takes so long for a batch. No nodes yet."""
    log = folder / "embedded.log"
    log.touch()
    variables = {
        "RAG_TEST_EMBED_LOG": str(log),
        "RAG_TEST_EMBED_SECONDS": str(seconds),
        "RAG_TEST_POISON": POISON,
        "RAG_TEST_KILLER": KILLER,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        cluster = RayCluster(log)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@dataclass(frozen=True)
class Outcome:
    """What the stores hold after a run."""

    duplicates: int
    missing: int
    left_behind: int
    stuck: int
    embedded_again: int

    @property
    def is_right(self) -> bool:
        return self.duplicates == self.missing == self.left_behind == self.stuck == 0


class RayMonth(Workspace):
    """A month of chunks, stored and not yet embedded."""

    def __init__(self, folder: Path, stores: Stores, cluster: RayCluster) -> None:
        super().__init__(folder, stores, SLOW)
        self.cluster = cluster
        self.variables |= {"RAG_BATCH_SIZE": str(BATCH), "RAG_CHUNK_TOKENS": "64"}

    def fill(self, documents: int, paragraphs: int = 20, first: str = "") -> int:
        """Store documents of about as many chunks as paragraphs, and chunk them. Returns the number of chunks."""
        self.store(documents, paragraphs, first)
        chunks = self.chunk(ray_address=None).added
        self.cluster.log.write_text("", "utf-8")
        return chunks

    def store(self, documents: int, paragraphs: int = 20, first: str = "") -> None:
        """Write documents and store them."""
        for number in range(documents):
            body = "\n\n".join(
                f"{first if (number, n) == (0, 0) else ''}段落{number}の{n}。索引を正しく保つ方法を述べる。" * 3
                for n in range(paragraphs)
            )
            self.write(f"{number}.md", f"# 見出し{number}\n\n{body}\n")
        self.ingest(ray_address=None)

    def ingest(self, meanwhile: Callable[[], None] | None = None, **overrides: object) -> DocumentsResult:
        """Scan, and store the month's documents under its lock. Meanwhile something else is done, in a thread."""
        with self.open(**overrides) as pipeline:
            pipeline.prepare()
            scan_source(pipeline, pipeline.source("docs"))
            with _meanwhile(meanwhile), pipeline.month_lock(MONTH):
                return ingest_documents(pipeline, MONTH)

    def chunk(self, meanwhile: Callable[[], None] | None = None, **overrides: object) -> ChunksResult:
        """Cut the month's documents under its lock. Meanwhile something else is done, in a thread."""
        with _meanwhile(meanwhile), self.open(**overrides) as pipeline, pipeline.month_lock(MONTH):
            return chunk_documents(pipeline, MONTH)

    def ray_settings(self, **overrides: object) -> Settings:
        return self.settings(
            **{
                "ray_address": self.cluster.address,
                "ray_from_chunks": 1,
                "ray_from_documents": 1,
                "ray_lease_seconds": 3,
                **overrides,
            }
        )

    def open(self, **overrides: object) -> Pipeline:
        return Pipeline(self.ray_settings(**overrides), self.endpoints)

    def embed(self, meanwhile: Callable[[], None] | None = None, **overrides: object) -> VectorsResult:
        """Embed the month under its lock, and verify it. Meanwhile something else is done, in a thread."""
        with _meanwhile(meanwhile), self.open(**overrides) as pipeline, pipeline.month_lock(MONTH):
            result = index_vectors(pipeline, MONTH)
            assert all(counts.equal for counts in verify(pipeline, MONTH, VECTOR_KINDS))
        return result

    def outcome(self) -> Outcome:
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            expected = {kind: expected_ids(connection, kind) for kind in VECTOR_KINDS}
        duplicates, missing, left = 0, 0, 0
        for kind in VECTOR_KINDS:
            stored = stored_ids(self.endpoints.milvus_uri, f"{self.prefix}{kind}_collection")
            duplicates += stored.total() - len(stored)
            missing += len(expected[kind] - stored.keys())
            left += len(stored.keys() - expected[kind])
        ((doubled,),) = self.rows(
            "SELECT count(*) FROM (SELECT FROM document_chunks GROUP BY document_id, position HAVING count(*) > 1) d"
        )
        ((stuck,),) = self.rows(
            "SELECT (SELECT count(*) FROM document_chunks WHERE NOT live OR embedding_status <> 'completed')"
            " + (SELECT count(*) FROM vector_deletions)"
            " + (SELECT count(*) FROM documents WHERE indexing_status <> 'completed')"
        )
        again = sum(count - 1 for count in self.cluster.embedded().values())
        return Outcome(duplicates + doubled, missing, left, stuck, again)


@contextmanager
def _meanwhile(what: Callable[[], None] | None) -> Iterator[None]:
    """Do something in a thread, and raise what it raises."""
    if what is None:
        yield
        return
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(what)
        yield
        future.result()


def wait_until(condition: Callable[[], object], seconds: float = _MOST_SECONDS) -> None:
    """Return when a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
