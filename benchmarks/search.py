"""How quickly the search service answers: python -m benchmarks.search [--chunks 10000] [--embedder NAME] [--seconds 10]
[--workers 1 2]

Fills an index of its own, runs `rag-pipeline serve` as a user would, and asks it over loopback with 1, 8 and 64 clients:
questions that nobody has asked before, then one that is cached. Prints the percentiles of what a client waits, and where
the service's time goes. The clients share the machine with the service and the stores. With several numbers of workers,
the service runs with each of them, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import numpy as np
import psutil

from benchmarks.harness import EMBEDDER, benchmark_workspace, ingest
from benchmarks.ingest import WORDS, make_files

_CHUNKS_A_FILE = 7
_STAGE = re.compile(r'^rag_search_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.M)


@contextmanager
def service(environment: Mapping[str, str], workers: int) -> Iterator[tuple[str, str | None, psutil.Process]]:
    """Run the service; yield its address, the key that it made if it is the first time, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rag_pipeline.cli", "serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, env=dict(environment), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while "search service:" not in said:
            said += process.stderr.readline()
        key = re.search(r"rag_\w{8}_[\w-]{43}", said)
        url = f"http://127.0.0.1:{port}"
        _wait_for(url)
        yield url, key[0] if key else None, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    while True:
        try:
            httpx.get(f"{url}/healthz", trust_env=False)
            return
        except httpx.TransportError:
            time.sleep(0.05)


def questions() -> Iterator[str]:
    """Yield questions that were never asked before."""
    chosen = random.Random(11)
    for number in itertools.count():
        words = chosen.sample(WORDS, 3)
        yield f"{words[0]}の{words[1]}は{words[2]}と何を保つか {number}"


async def ask(url: str, key: str, clients: int, seconds: float, texts: Iterator[str]) -> list[float]:
    """Have so many clients ask one question after the other; return what each answer took, in seconds."""
    waited: list[float] = []
    end = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=clients)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False
    ) as client:

        async def one() -> None:
            while time.perf_counter() < end:
                start = time.perf_counter()
                answer = await client.post("/v1/search", json={"query": next(texts), "limit": 10})
                if answer.status_code != 200:
                    raise SystemExit(f"{answer.status_code}: {answer.text}")
                waited.append(time.perf_counter() - start)

        await asyncio.gather(*(one() for _ in range(clients)))
    return waited


def stages(url: str, key: str) -> dict[str, tuple[float, float]]:
    """Return the seconds and the number of each stage so far."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}, trust_env=False).text
    found: dict[str, dict[str, float]] = {}
    for what, stage, value in _STAGE.findall(text):
        found.setdefault(stage, {})[what] = float(value)
    return {stage: (values["sum"], values["count"]) for stage, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--embedder", default=EMBEDDER)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    with benchmark_workspace(arguments.embedder) as (workspace, environment):
        make_files(workspace.docs, -(-arguments.chunks // _CHUNKS_A_FILE), 12)
        done = ingest(environment)
        print(
            f"{done.printed['chunks']} chunks in {done.seconds:.0f} s, embedder {arguments.embedder}", flush=True
        )
        workspace.rows("ANALYZE")
        texts, key = questions(), None
        for workers in arguments.workers:
            with service(environment, workers) as (url, made, process):
                key = key or made
                assert key is not None
                workspace.rows("UPDATE api_keys SET rate_limit_per_minute = 100000000")
                if len(arguments.workers) > 1:
                    print(f"with --workers {workers}", flush=True)
                _measure(url, key, texts, arguments.seconds)
                print(f"service: {process.memory_info().rss / 2**20:.0f} MB resident", flush=True)
                for worker in process.children() if workers > 1 else []:
                    own = worker.memory_full_info()
                    print(f"    a process of it: {own.rss / 2**20:.0f} MB resident, {own.uss / 2**20:.0f} its own")


def _measure(url: str, key: str, texts: Iterator[str], seconds: float) -> None:
    asyncio.run(ask(url, key, 2, 1, texts))
    for clients in (1, 8, 64):
        for name, asked in (("never asked", texts), ("cached", itertools.repeat("索引の区画"))):
            before = stages(url, key)
            waited = asyncio.run(ask(url, key, clients, seconds, asked))
            _print(name, clients, waited, seconds)
            if name != "cached":
                _print_stages(before, stages(url, key))


def _print(name: str, clients: int, waited: list[float], seconds: float) -> None:
    half, most, nearly_all = np.percentile(np.array(waited) * 1000, [50, 95, 99])
    print(
        f"{name:12} {clients:3} clients: p50 {half:6.1f} ms, p95 {most:6.1f} ms, p99 {nearly_all:6.1f} ms, "
        f"{len(waited) / seconds:6.1f} a second",
        flush=True,
    )


def _print_stages(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> None:
    parts = []
    for stage, (total, count) in after.items():
        was, before_count = before.get(stage, (0.0, 0.0))
        if count > before_count:
            parts.append(f"{stage} {(total - was) / (count - before_count) * 1000:.1f}")
    print(f"    ms by stage: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
