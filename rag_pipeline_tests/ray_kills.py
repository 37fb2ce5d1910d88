"""The kill table of Ray's workers: `python -m rag_pipeline_tests.ray_kills [--rounds 3]`.

Has workers embed a month, on its own embedded servers and a cluster of several nodes, and kills, freezes or adds something
in the middle, each time a little later. Prints a table of what is left: duplicate, missing and left-over vectors, stuck
rows, and texts embedded again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline_tests.support.ray_cluster import BATCH, MONTH, Outcome, RayCluster, RayMonth, ray_cluster
from rag_pipeline_tests.support.servers import temporary_folder, temporary_servers
from rag_pipeline_tests.support.stores import temporary_stores

RUN = (
    "from rag_pipeline.pipeline import Pipeline; from rag_pipeline.settings import load_settings\n"
    "from rag_pipeline.months import Month; from rag_pipeline.indexing.index_vectors import index_vectors\n"
    f"month = Month({MONTH.year}, {MONTH.month})\n"
    "with Pipeline(load_settings()) as pipeline, pipeline.month_lock(month): index_vectors(pipeline, month)"
)
"""A run in a process of its own."""


def start_run(month: RayMonth) -> subprocess.Popen[bytes]:
    """Start a run that embeds the month, without the checks at its end."""
    ray = {"RAG_RAY_ADDRESS": month.cluster.address, "RAG_RAY_FROM_CHUNKS": "1", "RAG_RAY_LEASE_SECONDS": "3"}
    return subprocess.Popen([sys.executable, "-c", RUN], env=os.environ | month.variables | ray)


def _node_killed(month: RayMonth, texts: int) -> None:
    month.embed(lambda: _then(month, texts, month.cluster.kill_node))


def _node_killed_and_added(month: RayMonth, texts: int) -> None:
    def replace() -> None:
        month.cluster.kill_node()
        month.cluster.add_node()

    month.embed(lambda: _then(month, texts, replace))


def _node_added(month: RayMonth, texts: int) -> None:
    month.embed(lambda: _then(month, texts, month.cluster.add_node))


def _worker_killed(month: RayMonth, texts: int) -> None:
    month.embed(lambda: _then(month, texts, lambda: month.cluster.worker().kill()))


def _worker_frozen(month: RayMonth, texts: int) -> None:
    month.embed(lambda: _then(month, texts, lambda: month.cluster.worker().suspend()))


def _all_nodes_killed(month: RayMonth, texts: int) -> None:
    with suppress(StoreUnavailableError):
        month.embed(lambda: _then(month, texts, lambda: month.cluster.resize(0)))
    month.cluster.resize(2)
    month.embed()


def _run_killed(month: RayMonth, texts: int) -> None:
    process = start_run(month)
    month.cluster.wait_for_embedded(texts)
    process.send_signal(signal.SIGKILL)
    process.wait()
    month.embed()


def _then(month: RayMonth, texts: int, what: Callable[[], object]) -> None:
    month.cluster.wait_for_embedded(texts)
    what()


KILLS: dict[str, Callable[[RayMonth, int], None]] = {
    "a node killed": _node_killed,
    "a node killed, another added": _node_killed_and_added,
    "a node added": _node_added,
    "a worker killed -9": _worker_killed,
    "a worker frozen": _worker_frozen,
    "all nodes killed, run again": _all_nodes_killed,
    "the run killed -9, run again": _run_killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table: dict[str, list[Outcome]] = defaultdict(list)
    with (
        temporary_folder("ray") as folder,
        temporary_servers("ray-servers") as servers,
        ray_cluster(folder) as cluster,
    ):
        for number in range(arguments.rounds):
            for name, kill in KILLS.items():
                outcome = _one(cluster, servers.up(), kill, 2 * BATCH + number * 5 * BATCH // 2)
                table[name].append(outcome)
                print(name, outcome, flush=True)
    print("\n| in the middle | times | duplicates | missing | left behind | stuck | embedded again, at most |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, outcomes in table.items():
        sums = [sum(getattr(o, f) for o in outcomes) for f in ("duplicates", "missing", "left_behind", "stuck")]
        again = max(o.embedded_again for o in outcomes)
        print(f"| {name} | {len(outcomes)} | {' | '.join(map(str, sums))} | {again} |")
    sys.exit(0 if all(o.is_right for outcomes in table.values() for o in outcomes) else 1)


def _one(cluster: RayCluster, endpoints: Endpoints, kill: Callable[[RayMonth, int], None], texts: int) -> Outcome:
    cluster.resize(2)
    with temporary_folder("month") as folder, temporary_stores(endpoints, "ray") as stores:
        month = RayMonth(folder, stores, cluster)
        month.fill(16)
        kill(month, texts)
        return month.outcome()


if __name__ == "__main__":
    main()
