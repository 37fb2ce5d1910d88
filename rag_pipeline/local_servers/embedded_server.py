"""What the three embedded servers have in common: how each is identified, started and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import psutil

from rag_pipeline.errors import RagError, StoreUnavailableError
from rag_pipeline.local_servers import processes
from rag_pipeline.local_servers.server_state import ServerState, ServerStates

Report = Callable[[str], None]

_START_SECONDS = 120.0
_ANSWER_SECONDS = 30.0
_STOP_SECONDS = 30.0
_PID_SECONDS = 10.0
_NOTE_CHARACTERS = 4000


class _EndedError(RagError):
    """A server ended by itself before it answered."""


class EmbeddedServer(ABC):
    """One server under `home`, with what is remembered of it, among the others' states."""

    name: ClassVar[str]
    """Its display name."""

    def __init__(self, home: Path, states: ServerStates, remembered: ServerState) -> None:
        self.home = home
        self.states = states
        self.remembered = remembered
        self.log = home / "logs" / f"{self.name.lower()}.log"
        self.lock = home / f"{self.name.lower()}.lock"

    @property
    @abstractmethod
    def url(self) -> str:
        """Its address for clients, with the password."""

    @property
    @abstractmethod
    def pidfile(self) -> Path:
        """Written by the server itself; its first line is the pid."""

    @property
    @abstractmethod
    def marks(self) -> tuple[str, ...]:
        """Parts of the command line that only this server has."""

    @property
    @abstractmethod
    def port_mark(self) -> str:
        """The part of its command line that shows the remembered port."""

    @abstractmethod
    def probe(self) -> None:
        """Raise `StoreUnavailableError` unless it answers on the remembered port."""

    @abstractmethod
    def prepare(self, report: Report) -> None:
        """Create its folder and configuration; called before each start."""

    @abstractmethod
    def spawn(self, lock_fd: int) -> subprocess.Popen[bytes]:
        """Start it; it inherits the descriptor of its lock."""

    @classmethod  # noqa: B027 - most have nothing to check
    def check_new(cls, home: Path) -> None:
        """Raise `ConfigError` if the content of `home` prevents a first start."""

    def complete(self) -> None:  # noqa: B027 - most have nothing to do
        """Create what clients expect, once it answers; called by each `up`."""

    def unsaved(self) -> str:
        """Return what is lost if it is stopped now, and why; empty if nothing is."""
        return ""

    def process(self) -> psutil.Process | None:
        """Return its process in any state; None if it is not running."""
        return processes.find(self.pidfile, *self.marks)

    def answers(self) -> bool:
        """Whether it is running and accepts clients."""
        process = self.process()
        if process is None:
            return False
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            return False
        return self.port_mark in line and self._probed()

    def up(self, report: Report) -> None:
        """Start it unless it already answers, and wait until it does."""
        lock_fd = self._lock(report)
        if lock_fd is None:
            self.complete()
            report(f"{self.name}: running on port {self.remembered.port}")
            return
        try:
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
            self.prepare(report)
            if not processes.port_is_free(self.remembered.port):
                taken = self.remembered.port
                self.states.change_port(self.remembered)
                report(
                    f"{self.name}: port {taken} is taken by another program, using {self.remembered.port} from now on"
                )
                self.prepare(report)
            self._start(lock_fd, report)
        finally:
            os.close(lock_fd)
        self.complete()
        report(f"{self.name}: started on port {self.remembered.port}")

    def down(self, report: Report) -> None:
        """Stop it if it is running."""
        unsaved = self.unsaved()
        if self.stop():
            report(f"{self.name}: stopped{unsaved and f'; {unsaved}'}")
        else:
            report(f"{self.name}: not running")

    def stop(self) -> bool:
        """Stop it; return False if it was not running."""
        if (lock_fd := self._try_lock()) is not None:
            os.close(lock_fd)
            return False
        # it might be starting and not have written its pid yet
        processes.wait_until(lambda: self.process() is not None, lambda: True, _PID_SECONDS)
        process = self.process()
        if process is None:
            return False
        # all three shut down cleanly on SIGINT, PostgreSQL without waiting for its clients (`fast`)
        processes.stop(process, signal.SIGINT, _STOP_SECONDS)
        return True

    def _lock(self, report: Report) -> int | None:
        """Take its lock for a start; return None if it is running and answers."""
        until = time.monotonic() + _ANSWER_SECONDS
        while (lock_fd := self._try_lock()) is None:
            # starting, if an `up` was killed; or ending, process by process, if the server was killed
            if self.answers():
                return None
            if time.monotonic() > until:
                report(f"{self.name}: does not answer on port {self.remembered.port}, restarting it")
                if not self.stop():
                    raise RagError(
                        f"{self.name}: one of its processes holds {self.lock} but cannot be found: end it"
                    )
                until = time.monotonic() + _ANSWER_SECONDS
            time.sleep(0.05)
        return lock_fd

    def _try_lock(self) -> int | None:
        lock_fd = processes.try_lock(self.lock)
        if lock_fd is not None and self.process() is not None:  # the lock file was removed
            os.close(lock_fd)
            return None
        return lock_fd

    def _probed(self) -> bool:
        try:
            self.probe()
        except StoreUnavailableError:
            return False
        return True

    def _start(self, lock_fd: int, report: Report) -> None:
        """Start it; once more if it ends by itself, since what ended it may pass (a full process table, memory)."""
        try:
            self._start_once(lock_fd)
        except _EndedError as error:
            report(f"{error}; starting it once more")
            self._start_once(lock_fd)

    def _start_once(self, lock_fd: int) -> None:
        start = self.log.stat().st_size if self.log.exists() else 0
        child = self.spawn(lock_fd)
        if processes.wait_until(partial(self._ready, child.pid), partial(_runs, child), _START_SECONDS):
            processes.leave_running(child)
            return
        status = child.poll()
        child.kill()
        child.wait()
        output = processes.log_since(self.log, start)
        why = f"{processes.error_line(output)} (log: {self.log})"
        error: RagError
        if status is None:
            error = RagError(f"{self.name} did not answer within {_START_SECONDS:g} s: {why}")
        else:
            error = _EndedError(f"{self.name} did not start, {processes.how_it_ended(status)}: {why}")
        error.add_note(output[-_NOTE_CHARACTERS:])  # a traceback shows it all, the one line does not
        raise error

    def _ready(self, pid: int) -> bool:
        # compare the pid too: a foreign server that shares its port could be answering
        process = self.process()
        return process is not None and process.pid == pid and self._probed()


def _runs(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is None
