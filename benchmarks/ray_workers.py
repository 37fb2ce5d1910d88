"""What Ray's workers gain and cost: python -m benchmarks.ray_workers [--files 60] [--rounds 2]

Embeds a month without Ray, with one worker and with two, on its own embedded servers, with the local embedder (its cost
is the processor's). Each way computes on one thread a worker, so that two workers compare with one and not with
themselves. Ray's cluster is started before: starting it is measured by itself. Compare only figures of the same call, and
the gain of two workers with what the machine gives two processes at that time that only count: less than twice as much as
one if others use it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.harness import benchmark_workspace
from benchmarks.ingest import make_files
from rag_pipeline.distributed.cluster import joined
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline_tests.support.workspace import Workspace

MONTH = Month(2024, 1)
WAYS = {"no Ray": None, "one worker": 1, "two workers": 2}


@contextmanager
def pipeline_of(workspace: Workspace, workers: int | None) -> Iterator[Pipeline]:
    ray = {"ray_address": "local", "ray_workers": workers, "ray_from_chunks": 1} if workers else {}
    with Pipeline(workspace.settings(**ray), workspace.endpoints) as pipeline, pipeline.month_lock(MONTH):
        yield pipeline


def forget(workspace: Workspace) -> None:
    """Make every chunk pending again, and empty the cache."""
    workspace.rows(
        "UPDATE document_chunks SET embedding_status = 'pending', "
        "dense_vector_id = NULL, sparse_vector_id = NULL, multi_vector_id = NULL"
    )
    workspace.rows("UPDATE documents SET indexing_status = 'indexing'")
    with Pipeline(workspace.settings(), workspace.endpoints) as pipeline:
        pipeline.stores.redis.flushdb()


def embed(workspace: Workspace, workers: int | None) -> tuple[float, float, int]:
    """Return the seconds of the step, those that workers worked at most, and the chunks."""
    forget(workspace)
    with pipeline_of(workspace, workers) as pipeline:
        start = time.perf_counter()
        result = index_vectors(pipeline, MONTH)
        seconds = time.perf_counter() - start
        assert all(counts.equal for counts in verify(pipeline, MONTH, VECTOR_KINDS))
    working = max((worker.seconds for worker in result.workers), default=seconds)
    return seconds, working, result.written


def count(seconds: float) -> int:
    """Count for so long; return how far."""
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        number += 1
    return number


def cores_now() -> float:
    """Return how much more two processes do now than one."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(count, [0.1] * 4))
        alone, together = 0, 0
        for _ in range(3):
            alone += pool.submit(count, 1).result()
            together += sum(pool.map(count, [1, 1]))
    return together / alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # Ray has its workers give way to all others (15), which the run without Ray does not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    with benchmark_workspace("local") as (workspace, _):
        make_files(workspace.docs, arguments.files, 1)
        with pipeline_of(workspace, None) as pipeline:
            pipeline.prepare()
            scan_source(pipeline, pipeline.source("docs"))
            ingest_documents(pipeline, MONTH)
            chunks = chunk_documents(pipeline, MONTH).added
            index_vectors(pipeline, MONTH)  # loads the model, creates the collections
        start = time.perf_counter()
        with joined("local"):
            print(f"{chunks} chunks; Ray started in {time.perf_counter() - start:.1f} s", flush=True)
            steps: dict[str, list[float]] = {way: [] for way in WAYS}
            works: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                print(f"two processes that only count do {cores_now():.2f} times what one does", flush=True)
                for way, workers in WAYS.items():
                    seconds, working, written = embed(workspace, workers)
                    steps[way].append(seconds)
                    works[way].append(working)
                    print(
                        f"{way}: {seconds:.1f} s, of which workers worked {working:.1f} s, "
                        f"{written / working:.1f} chunks/s",
                        flush=True,
                    )
    best = {way: min(seconds) for way, seconds in steps.items()}
    best_work = {way: min(seconds) for way, seconds in works.items()}
    middle = {way: statistics.median(seconds) for way, seconds in steps.items()}
    print(f"one worker to two, working: {best_work['one worker'] / best_work['two workers']:.2f} times")
    print(f"one worker to two, whole step: {best['one worker'] / best['two workers']:.2f} times")
    print(
        f"one worker against none: working {best_work['one worker'] / best_work['no Ray'] - 1:+.0%}, "
        f"whole step {best['one worker'] - best['no Ray']:+.1f} s (medians {middle})"
    )


if __name__ == "__main__":
    main()
