"""Dagster as a user starts it, in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
from dagster_graphql import DagsterGraphQLClient

from rag_pipeline_tests.support.workspace import Workspace

T = TypeVar("T")
_PARTITIONS = """
query { assetNodeOrError(assetKey: {path: ["documents"]}) { ... on AssetNode { partitionKeys } } }
"""


class Live:
    """A running webserver, daemon and code location with a folder of documents: `rag-pipeline dev`, or another command."""

    def __init__(
        self,
        workspace: Workspace,
        command: Sequence[str] = ("rag_pipeline.cli", "dev"),
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.workspace = workspace
        self.port = port = free_port()
        self.log = workspace.folder / "dev.log"
        self.dropped_at = 0.0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                # Dagster copies an ignored SIGINT, which a shell in the background hands on, to SIGTERM.
                ["env", "--default-signal=INT,QUIT,TERM", sys.executable, "-m", *command, "--port", str(port)],
                cwd=folder or workspace.folder,
                env=os.environ if variables is None else variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self.client = wait("the UI answers", 240, lambda: self._client(port))
        except BaseException:
            self.kill()
            raise

    def _client(self, port: int) -> DagsterGraphQLClient | None:
        assert self.process.poll() is None, self.log.read_text("utf-8")[-3000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return None
        return DagsterGraphQLClient("127.0.0.1", port_number=port)

    def ask(self, query: str, **variables: object) -> dict:
        return self.client._execute(query, variables)

    def write(self, name: str, date: str, text: str) -> None:
        self.workspace.write(name, f"{text}\n", date)

    def months(self) -> list[str]:
        """Return the partitions of `documents` in the order in which the UI shows them."""
        return self.ask(_PARTITIONS)["assetNodeOrError"]["partitionKeys"]

    def rows(self, statement: str) -> list[tuple]:
        return self.workspace.rows(statement)

    def processes(self) -> list[psutil.Process]:
        """Return its process, its descendants, and everything in their sessions, orphans included."""
        main = psutil.Process(self.process.pid)
        sessions = {os.getsid(process.pid) for process in (main, *main.children(recursive=True))}
        return [process for process in psutil.process_iter() if _session(process) in sessions]

    def stop(self) -> list[psutil.Process]:
        """Send TERM; return the processes that still run after 30 s."""
        processes = self.processes()
        self.process.send_signal(signal.SIGTERM)
        return psutil.wait_procs(processes, timeout=30)[1]

    def kill(self) -> None:
        """Clean up after a failed test."""
        if self.process.poll() is None:
            for process in self.stop():
                process.kill()


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def wait(what: str, seconds: float, ask: Callable[[], T | None]) -> T:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return answer


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
