"""`python -m rag_pipeline_tests.support.killed_ingest N`: `rag-pipeline ingest`, killed at its Nth store operation.

A point is the moment before or after a commit in PostgreSQL (ours, and those of Dagster), a call that changes Milvus, or
a pipeline to Redis. Without N the ingest runs to its end and prints its own JSON, then the names of all points as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import redis.client
from pymilvus import MilvusClient
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from rag_pipeline.cli import cli

_OPERATIONS = [
    (psycopg.Connection, ["commit"]),
    (PGDialect_psycopg2, ["do_commit"]),
    (MilvusClient, ["upsert", "delete", "flush", "create_collection", "create_alias", "create_partition"]),
    (redis.client.Pipeline, ["execute"]),
]


class Killer:
    """Counts points, and kills this process with SIGKILL at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.points: list[str] = []
        self._lock = threading.Lock()

    def point(self, name: str) -> None:
        with self._lock:
            self.points.append(name)
            if len(self.points) == self.at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def watched(*arguments: Any, **named: Any) -> Any:
            self.point(f"before {owner.__name__}.{name}")
            result = original(*arguments, **named)
            self.point(f"after {owner.__name__}.{name}")
            return result

        setattr(owner, name, watched)


def main() -> None:
    killer = Killer(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    for owner, names in _OPERATIONS:
        for name in names:
            killer.watch(owner, name)
    try:
        cli(["ingest", "--json"], standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps(killer.points))


if __name__ == "__main__":
    main()
