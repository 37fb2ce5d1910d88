"""The kill matrix: `python -m rag_pipeline_tests.kill_matrix [--points N]`.

Kills `rag-pipeline ingest` at many points, on its own embedded servers, and prints a table of what the next ingest leaves:
duplicate, missing and left-over vectors, stuck rows, unfinished runs in Dagster, and texts embedded again. At the end no
alert may be open.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from rag_pipeline.alerts.recording import last_read_event, record
from rag_pipeline.defs.event_log import log_name, read_events
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VECTOR_KINDS, load_settings
from rag_pipeline.stores.postgres.alert_outbox import failing
from rag_pipeline_tests.support.command_line import CommandLine
from rag_pipeline_tests.support.dagster_home import dagster_home
from rag_pipeline_tests.support.index_state import expected_ids, stored_ids
from rag_pipeline_tests.support.servers import temporary_folder, temporary_servers
from rag_pipeline_tests.support.stores import Stores, temporary_stores
from rag_pipeline_tests.support.workspace import SLOW

BATCH = 16
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Outcome:
    """What the ingest after a kill leaves."""

    point: str
    duplicates: int
    missing: int
    left_behind: int
    stuck: int
    unfinished_runs: int
    embedded_again: int

    @property
    def passed(self) -> bool:
        wrong = self.duplicates + self.missing + self.left_behind + self.stuck + self.unfinished_runs
        return wrong == 0 and self.embedded_again <= BATCH


class KillMatrix:
    """A corpus that changes in every round: one file is added, one edited, one renamed, one deleted."""

    def __init__(self, folder: Path, stores: Stores) -> None:
        self.cli = CommandLine(folder, stores)
        self.log = folder / "embedded.log"
        self.cli.environment |= {
            "RAG_EMBEDDER": SLOW,
            "RAG_TEST_EMBED_LOG": str(self.log),
            "RAG_TEST_EMBED_SECONDS": "0",
            "RAG_BATCH_SIZE": str(BATCH),
        }
        self._round = 0
        for n in range(6):
            self._write(f"base{n}.md", f"b{n}", 12)
        self._ingest()

    def change(self) -> None:
        """Make the next round's changes: about 40 chunks of work in two months."""
        self._round += 1
        docs = self.cli.docs
        self._write(f"new{self._round}.md", f"n{self._round}", 20)
        edited = docs / "base0.md"
        edited.write_text(
            edited.read_text("utf-8") + f"\n\n追記{self._round}。{secrets.token_hex(4)}。\n", "utf-8"
        )
        names = sorted(docs.glob("new*.md"), key=lambda path: int("".join(filter(str.isdigit, path.name))))
        if len(names) > 2:
            names[0].unlink()
            names[1].rename(docs / f"renamed{self._round}.md")
        for old in sorted(docs.glob("renamed*.md"))[:-1]:
            old.unlink()

    def points(self) -> list[str]:
        """Run a round undisturbed and return its points."""
        return self._ingest()

    def open_alerts(self) -> list[str]:
        """Let the sensor `alerts` read everything that has happened, and return what is failing."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.cli.environment.items():
                patch.setenv(name, value)
            settings = load_settings()
            with dagster_home(settings, self.cli.endpoints) as home, Pipeline(settings) as pipeline:
                log, database = log_name(home.instance), pipeline.stores.database
                more = True
                while more:
                    # As a tick a minute from now would see it: the newest events have settled by then.
                    page = read_events(home.instance, last_read_event(database, log), datetime.now(UTC) + MINUTE)
                    record(database, log, page.observations, page.read_up_to)
                    more = page.more
                with database.connection() as connection:
                    return [str(subject) for subject, _ in failing(connection)]

    def kill_at(self, point: int) -> Outcome | None:
        """Kill a round at a point and ingest again; None if the round ended before it."""
        self.log.write_text("", "utf-8")
        killed = self._start(str(point))
        _, err = killed.communicate(timeout=120)
        if killed.returncode == 0:
            return None
        assert killed.returncode == -signal.SIGKILL, err
        self._ingest()
        return self._outcome(str(point))

    def _outcome(self, point: str) -> Outcome:
        again = sum(count - 1 for count in Counter(self.log.read_text("utf-8").splitlines()).values())
        with psycopg.connect(self.cli.endpoints.postgres_url) as connection:
            stuck = connection.execute(
                """
                SELECT (SELECT count(*) FROM document_chunks
                        WHERE NOT live OR superseded OR embedding_status <> 'completed')
                    + (SELECT count(*) FROM vector_deletions)
                    + (SELECT count(*) FROM documents
                       WHERE processing_status <> 'completed' OR indexing_status <> 'completed')
                    + (SELECT count(*) FROM source_items WHERE state <> 'ingested')
                """
            ).fetchone()
            unfinished = connection.execute(
                "SELECT count(*) FROM dagster.runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
            ).fetchone()
            doubled = connection.execute(
                "SELECT count(*) FROM (SELECT FROM document_chunks GROUP BY document_id, position HAVING count(*) > 1) d"
            ).fetchone()
            expected = {kind: expected_ids(connection, kind) for kind in VECTOR_KINDS}
        assert stuck
        assert doubled
        assert unfinished
        duplicates, missing, left = doubled[0], 0, 0
        for kind in VECTOR_KINDS:
            stored = stored_ids(self.cli.endpoints.milvus_uri, f"{self.cli.prefix}{kind}_collection")
            duplicates += stored.total() - len(stored)
            missing += len(expected[kind] - stored.keys())
            left += len(stored.keys() - expected[kind])
        return Outcome(point, duplicates, missing, left, stuck[0], unfinished[0], again)

    def _write(self, name: str, seed: str, paragraphs: int) -> None:
        month = len(seed) % 2 + 1
        body = "\n\n".join(f"段落{seed}の{n}。索引を正しく保つ方法を述べる。" * 3 for n in range(paragraphs))
        self.cli.write(name, f"# 見出し{seed}\n\n{body}\n", f"2024-0{month}-05")

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rag_pipeline_tests.support.killed_ingest", *arguments],
            env=self.cli.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ingest(self) -> list[str]:
        process = self._start()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        *_, points = out.splitlines()
        return json.loads(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=40, help="how many points of a round to kill at")
    arguments = parser.parse_args()
    with (
        temporary_folder("kill") as folder,
        temporary_servers("kill-servers") as servers,
        temporary_stores(servers.up(), "kill") as stores,
    ):
        matrix = KillMatrix(folder, stores)
        for _ in range(3):
            matrix.change()
            names = matrix.points()
        # An odd step meets both what is before and what is after an operation.
        step = max(1, len(names) // arguments.points) | 1
        print(f"{len(names)} points in a round, every {step}. is killed at")
        table: dict[str, list[Outcome]] = defaultdict(list)
        for point in range(1, len(names) + 1, step):
            matrix.change()
            outcome = matrix.kill_at(point)
            if outcome:
                table[names[point - 1]].append(outcome)
                print(point, names[point - 1], outcome, flush=True)
        print(
            "\n| point | kills | duplicates | missing | left behind | stuck | unfinished runs | embedded again, at most |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, outcomes in table.items():
            sums = [
                sum(getattr(o, f) for o in outcomes)
                for f in ("duplicates", "missing", "left_behind", "stuck", "unfinished_runs")
            ]
            again = max(o.embedded_again for o in outcomes)
            print(f"| {name} | {len(outcomes)} | " + " | ".join(map(str, sums)) + f" | {again} |")
        alerts = matrix.open_alerts()
        print(f"\nopen alerts: {', '.join(alerts) or 'none'}")
        sys.exit(0 if not alerts and all(o.passed for outcomes in table.values() for o in outcomes) else 1)


if __name__ == "__main__":
    main()
