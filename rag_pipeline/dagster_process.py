"""`dagster dev` as `rag-pipeline dev` runs it: started again when it ends, and never left behind."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import psutil

from rag_pipeline.local_servers.processes import ended, wait_until
from rag_pipeline.restart_pauses import RestartPauses, was_healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_RECENT_SECONDS = 600.0
_ALERT_AFTER = 3
_STOP_SECONDS = 30
_KILLED_SECONDS = 30
"""For a process that was killed to be gone: at once, but on a machine that is too busy."""
_SERVICES = {"dagster._daemon", "dagster_webserver"}


class DagsterProcess:
    """A context manager around `dagster dev` and all that it starts.

    `dagster dev` ends when its daemon or its webserver does. It is started again after 1 s, or after 2, 4, 8, … up to
    60 s if it did not live for a minute. `report` receives a line for each end, `started` the number of each new process,
    and `alert` a text when it has ended three times in ten minutes.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes],
        inherited: int,
        *,
        report: Callable[[str], None],
        alert: Callable[[str], None],
        started: Callable[[int], None],
    ) -> None:
        # With default signals: `dagster dev` copies an ignored SIGINT to SIGTERM and could then not be stopped.
        self._command = ["env", "--default-signal=INT,QUIT,TERM,HUP", *command]
        self._environment = dict(environment)
        self._output = output
        self._inherited = inherited
        self._report = report
        self._alert = alert
        self._started = started
        self._process: subprocess.Popen[bytes] | None = None
        self._left: list[psutil.Process] = []
        """What earlier ones have left behind: code servers, which end with the last of their runs."""

    def __enter__(self) -> DagsterProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send TERM to Dagster, which stops its children; kill what remains after a while."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        left = [*_members(process.pid), *_alive(self._left)]
        wait_until(lambda: not _alive(left), lambda: True, _STOP_SECONDS)
        for one in [*_members(process.pid), *_alive(left)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def keep_running(self) -> str:
        """Run it for as long as it can be kept running; return why it cannot. A signal's exception ends it earlier."""
        ends: list[float] = []
        pauses, has_worked = RestartPauses(), False
        while True:
            began = time.monotonic()
            self._run()
            now = time.monotonic()
            has_worked = has_worked or was_healthy(now - began)
            pause = pauses.after(now - began)
            ends = [*(end for end in ends if now - end < _RECENT_SECONDS), now]
            if len(ends) == _ALERT_AFTER and not has_worked:
                # It has never worked here: something that it needs is missing or wrong.
                return f"Dagster ended {_ALERT_AFTER} times soon after its start"
            self._report(f"Dagster ended unexpectedly: it is started again in {pause:.0f} s")
            if len(ends) == _ALERT_AFTER:
                self._alert("Dagster keeps ending")
            time.sleep(pause)

    def _run(self) -> None:
        """Run it once, until it ends; its code server may go on with its runs."""
        # Its own session: Ctrl-C must reach it once, from us, not from the terminal as well.
        self._process = process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[self._inherited],
        )
        self._started(process.pid)
        process.wait()
        left = _members(process.pid)
        # If it was killed, they are still there, and two daemons would do everything twice.
        services = []
        for one in left:
            with suppress(psutil.Error):
                if _SERVICES & set(one.cmdline()):
                    services.append(one)
                    one.kill()
        wait_until(lambda: not _alive(services), lambda: True, _KILLED_SECONDS)
        self._left = _alive([*self._left, *left])


def _members(group: int) -> list[psutil.Process]:
    """Return the processes of a group: unlike its number, they are never taken for others that came later."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                found.append(process)
    return found


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if not ended(process)]
