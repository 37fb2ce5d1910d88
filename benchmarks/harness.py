"""Embedded servers, sources and settings for one benchmark, removed at the end, and processes that are measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_pipeline_tests.support.servers import temporary_folder, temporary_servers
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace, clean_environment

EMBEDDER = "benchmarks.free_embedder:make"
INGEST = (sys.executable, "-m", "rag_pipeline.cli", "ingest", "--json")


@contextmanager
def benchmark_workspace(embedder: str = EMBEDDER) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """A workspace on its own servers, by default with the free embedder, and the environment of its processes."""
    with temporary_servers("benchmark-servers") as servers, temporary_folder("benchmark") as folder:
        workspace = Workspace(folder, Stores(servers.up(), ""), embedder)
        yield workspace, clean_environment() | workspace.variables


@dataclass(frozen=True)
class Measured:
    """What a process took, and what it printed: one line of JSON."""

    seconds: float
    processor_seconds: float
    """Of the process and its children, not of the servers: less noisy than `seconds` on a busy machine."""
    megabytes: float
    """Peak resident memory of the process itself or of one of its children, whichever had more."""
    own_megabytes: float
    """Peak of the process itself without the files that it maps, such as a dictionary: those pages all processes
    share, and the system takes them back when it needs memory."""
    printed: dict[str, Any]

    @property
    def stages(self) -> str:
        """The seconds of an ingest by stage."""
        return ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in self.printed["seconds"].items())


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command that prints a line of JSON last. Raises `SystemExit` with its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    own = _OwnMemory(process.pid)
    output = process.stdout.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{output[-4000:]}")
    printed = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    return Measured(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, own.peak(), json.loads(printed)
    )


class _OwnMemory(threading.Thread):
    """Looks at a process's anonymous memory now and then, until it has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._kilobytes = 0
        self.start()

    def run(self) -> None:
        with suppress(OSError, IndexError):
            while True:
                found = self._status.read_text("ascii", "replace").split("RssAnon:")[1].split()[0]
                self._kilobytes = max(self._kilobytes, int(found))
                time.sleep(0.02)

    def peak(self) -> float:
        """Return the most that was seen, in MB."""
        self.join()
        return self._kilobytes / 1024


def ingest(environment: Mapping[str, str]) -> Measured:
    """Run `rag-pipeline ingest` in a new process, as a user would."""
    return measure(INGEST, environment)
