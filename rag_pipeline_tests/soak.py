"""The soak: `python -m rag_pipeline_tests.soak [--minutes N]`.

Runs `rag-pipeline dev` on its own embedded servers and makes its life hard: documents in four sources change every few
seconds, and every minute or so something breaks. At the end everything must be consistent, no run unfinished and no alert
open; prints the figures as JSON, and exits 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg

from rag_pipeline.pipeline import find_endpoints
from rag_pipeline_tests.support.alerts import Inbox
from rag_pipeline_tests.support.live import free_port
from rag_pipeline_tests.support.servers import embedded, remove_home, temporary_folder
from rag_pipeline_tests.support.workspace import SLOW, clean_environment

SOURCES = ("handbook", "tickets", "minutes", "wiki")
_FAULT_SECONDS = 60.0
_CHANGE_SECONDS = 3.0
_QUIET_SECONDS = 900.0

BACKFILL = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename }
}
"""
RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "rag_pipeline") { __typename } }
"""


class Soak:
    """A home, four folders of documents, and a running `rag-pipeline dev` that is started again when it ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.random = random.Random(seed)
        self.inbox = Inbox().start()
        self.embedded = folder / "embedded.log"
        self.log = folder / "dev.log"
        self.port = free_port()
        self.counts: Counter[str] = Counter()
        self.memory: list[int] = []
        self.changed_at = 0.0
        for source in SOURCES:
            (folder / source).mkdir()
        self.sources = folder / "sources.yaml"
        self.sources.write_text(self._sources(), "utf-8")
        self.environment = {
            **clean_environment(),
            "RAG_HOME": str(self.home),
            "RAG_SOURCES": str(self.sources),
            "RAG_EMBEDDER": SLOW,
            "RAG_TEST_EMBED_LOG": str(self.embedded),
            "RAG_TEST_EMBED_SECONDS": "0.01",
            "RAG_ALERT_URLS": self.inbox.url,
            "RAG_MAX_DELETED_SHARE": "1",
        }
        self.dev: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start `rag-pipeline dev`, unless it runs, as whatever keeps services running would."""
        if self.dev is not None and self.dev.poll() is None:
            return
        self.counts["starts of dev"] += 1
        with self.log.open("ab") as log:
            self.dev = subprocess.Popen(
                ["env", "--default-signal=INT,QUIT,TERM", *self._command("dev", "--port", str(self.port))],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self.dev is not None and self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            self.dev.wait(120)
        self.inbox.stop()
        remove_home(self.home)

    # What changes

    def change(self) -> None:
        """Add, edit, rename or delete one document."""
        folder = self.folder / self.random.choice(SOURCES)
        files = sorted(folder.glob("*.md"))
        actions: list[Callable[[], object]] = [lambda: self._add(folder)]
        if len(files) > 5:
            file = self.random.choice(files)
            actions += [
                lambda: file.write_text(file.read_text("utf-8") + f"\n\n追記 {secrets.token_hex(4)}。\n", "utf-8"),
                lambda: file.write_text(file.read_text("utf-8").replace("段落", "節", 1), "utf-8"),
                lambda: file.rename(file.with_name(f"{secrets.token_hex(4)}.md")),
                file.unlink,
            ]
        self.random.choice(actions)()
        self.counts["changes"] += 1
        self.changed_at = time.time()

    def change_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.change()
            time.sleep(self.random.uniform(0.5, 1.5) * _CHANGE_SECONDS)

    def _add(self, folder: Path) -> None:
        month = self.random.randint(1, 12)
        body = "\n\n".join(
            f"段落{n} {secrets.token_hex(6)}。索引を正しく保つ方法を述べる。" * 2 for n in range(12)
        )
        text = f"---\ndate: 2024-{month:02}-05\n---\n# 文書\n\n{body}\n"
        (folder / f"{secrets.token_hex(4)}.md").write_text(text, "utf-8")

    # What breaks

    def faults(self) -> dict[str, Callable[[], object]]:
        return {
            "kill a worker": lambda: self._kill("spawn_main", parent="dagster"),
            "kill the daemon": lambda: self._kill("dagster._daemon"),
            "kill PostgreSQL": lambda: self._kill("postgres", "-D", str(self.home)),
            "kill Milvus": lambda: self._kill("milvus_server.py", str(self.home)),
            "kill Valkey": lambda: self._kill("valkey", str(self.home)),
            "stall Milvus": self._stall_milvus,
            "refuse Milvus' writes": self._refuse_writes,
            "kill dev": self._kill_dev,
            "break sources.yaml": self._break_sources,
            "delete with psql": self._delete_by_sql,
            "backfill": lambda: self._launch_backfill("index_month"),
            "repair all months": lambda: self._launch_backfill("repair_month"),
            "ingest beside": lambda: self._run("ingest"),
        }

    def break_something(self) -> str:
        """Do the next fault; all come before one comes again."""
        names = sorted(self.faults(), key=lambda name: (self.counts[f"fault: {name}"], self.random.random()))
        name = names[0]
        self.counts[f"fault: {name}"] += 1
        self.faults()[name]()
        return name

    def _kill(self, *marks: str, parent: str = "") -> bool:
        """Kill the first of our processes with these marks in its command line, and this one in its parent's."""
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or ())
            ours = str(self.home) in line or (process.info["environ"] or {}).get("RAG_HOME") == str(self.home)
            if ours and all(mark in line for mark in marks):
                above = process.parent()
                if not parent or (above and parent in " ".join(above.cmdline())):
                    process.kill()
                    return True
        return False

    def _kill_dev(self) -> None:
        assert self.dev
        os.killpg(self.dev.pid, signal.SIGKILL)
        self.dev.wait()
        # What it started lives on, and keeps the lock of the home until somebody stops it, as the message says.
        lock = self.home / "dev.lock"
        os.kill(int(lock.read_text("utf-8").split()[0]), signal.SIGTERM)

    def _milvus(self) -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if "milvus_server.py" in line and str(self.home) in line:
                return process
        return None

    def _stall_milvus(self) -> None:
        if process := self._milvus():
            process.suspend()
            self.change_for(40)
            process.resume()

    def _refuse_writes(self) -> None:
        """Let Milvus write no byte to any file, as on a full disk: it answers, with errors."""
        if process := self._milvus():
            process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            self.change_for(40)
            process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _break_sources(self) -> None:
        self.sources.write_text(self._sources() + "  - {name: broken, type: filesystem, path: }\n", "utf-8")
        self._ask(RELOAD)
        self.change_for(30)
        self.sources.write_text(self._sources(), "utf-8")
        self._ask(RELOAD)

    def _delete_by_sql(self) -> None:
        with psycopg.connect(self._postgres()) as connection:
            connection.execute(
                "DELETE FROM documents WHERE id IN (SELECT id FROM documents ORDER BY random() LIMIT 5)"
            )

    def _launch_backfill(self, job: str) -> None:
        keys = [f"2024-{month:02}-01" for month in range(1, 13)]
        selector = {
            "partitionSetName": f"{job}_partition_set",
            "repositorySelector": {"repositoryLocationName": "rag_pipeline", "repositoryName": "__repository__"},
        }
        self._ask(BACKFILL, params={"selector": selector, "partitionNames": keys})

    # The end

    def settle(self) -> bool:
        """Wait until nothing is pending, unfinished or failing; False if that takes too long."""
        deadline = time.monotonic() + _QUIET_SECONDS
        while time.monotonic() < deadline:
            self.start()
            time.sleep(5)
            try:
                if self._is_scanned() and not any(self.open().values()):
                    return True
            except psycopg.Error:
                continue
        return False

    def _is_scanned(self) -> bool:
        """Whether every source was scanned after the last change: before that, nothing is pending either."""
        with psycopg.connect(self._postgres()) as connection:
            scanned = connection.execute("SELECT min(last_sync_at) FROM sources WHERE is_active").fetchone()
        # A scan takes a second, and is dated by its end.
        return bool(scanned and scanned[0] and scanned[0].timestamp() > self.changed_at + 5)

    def open(self) -> dict[str, int]:
        """Return how much of each kind is not as it must be in the end."""
        counts = {
            "pending items": "SELECT count(*) FROM source_items WHERE state <> 'ingested'",
            "unfinished documents": "SELECT count(*) FROM documents WHERE processing_status <> 'completed' "
            "OR indexing_status <> 'completed'",
            "pending deletions": "SELECT count(*) FROM vector_deletions",
            "unfinished runs": "SELECT count(*) FROM dagster.runs "
            "WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')",
            "open alerts": "SELECT count(*) FROM alert_states WHERE failing",
        }
        with psycopg.connect(self._postgres()) as connection:
            found = {name: connection.execute(query).fetchone() for name, query in counts.items()}
        return {name: row[0] if row else 0 for name, row in found.items()}

    def report(self) -> dict[str, Any]:
        texts = Counter(self.embedded.read_text("utf-8").splitlines()) if self.embedded.exists() else Counter()
        check = self._run("check", "--json")
        with psycopg.connect(self._postgres()) as connection:
            runs = connection.execute("SELECT status, count(*) FROM dagster.runs GROUP BY 1").fetchall()
            failing = connection.execute("SELECT name, partition FROM alert_states WHERE failing").fetchall()
        return {
            **self.counts,
            "consistent": json.loads(check.stdout)["consistent"],
            "open": self.open(),
            "failing": failing,
            "runs": dict(runs),
            "embedded": sum(texts.values()),
            "embedded more than once": sum(texts.values()) - len(texts),
            "alerts": dict(Counter(title.split(": ")[1] for title in self.inbox.titles)),
            "memory in MiB, over time": self.memory,
            "lines of dev": len(self.log.read_text("utf-8", errors="replace").splitlines()),
            "tracebacks": self.log.read_text("utf-8", errors="replace").count("Traceback"),
        }

    def measure(self) -> None:
        """Note the memory of all our processes."""
        assert self.dev
        try:
            tree = [psutil.Process(self.dev.pid), *psutil.Process(self.dev.pid).children(recursive=True)]
        except psutil.Error:
            return
        total = 0
        for process in tree:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self.memory.append(total >> 20)

    def _sources(self) -> str:
        entries = [
            f"  - {{name: {name}, type: filesystem, path: ./{name}, schedule: '* * * * *'}}\n" for name in SOURCES
        ]
        return "sources:\n" + "".join(entries)

    def _postgres(self) -> str:
        return find_endpoints(embedded(self.home)).postgres_url

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rag_pipeline.cli", *arguments]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def _ask(self, query: str, **variables: object) -> None:
        from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError
        from requests import RequestException

        try:
            DagsterGraphQLClient("127.0.0.1", port_number=self.port)._execute(query, variables)
        except (DagsterGraphQLClientError, RequestException) as error:
            print(f"the UI did not take it: {type(error).__name__}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with temporary_folder("soak") as folder:
        soak = Soak(folder, arguments.seed)
        try:
            for _ in range(40):
                soak.change()
            begin = next_fault = time.monotonic()
            next_fault += 2 * _FAULT_SECONDS
            while (now := time.monotonic()) < begin + 60 * arguments.minutes:
                soak.start()
                if now >= next_fault:
                    soak.measure()
                    print(f"{(now - begin) / 60:.1f} min: {soak.break_something()}", flush=True)
                    next_fault = time.monotonic() + _FAULT_SECONDS
                soak.change_for(1)
            settled = soak.settle()
            soak.measure()
            report = soak.report()
            print(json.dumps(report, ensure_ascii=False, indent=2))
        finally:
            soak.stop()
    sys.exit(0 if settled and report["consistent"] else 1)


if __name__ == "__main__":
    main()
