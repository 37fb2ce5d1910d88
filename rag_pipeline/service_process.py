"""The search service beside Dagster, as `rag-pipeline dev` runs it: started again when it ends, and never left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from rag_pipeline.restart_pauses import RestartPauses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

_STOP_SECONDS = 15


class ServiceProcess:
    """A context manager around `rag-pipeline serve`. What it says goes to `report`."""

    def __init__(
        self, host: str, port: int, environment: Mapping[str, str], report: Callable[[str], None]
    ) -> None:
        self._command = [sys.executable, "-m", "rag_pipeline.cli", "serve", "--host", host, "--port", str(port)]
        self._environment = dict(environment)
        self._report = report
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_running, name="search service", daemon=True)

    def __enter__(self) -> ServiceProcess:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join(_STOP_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _keep_running(self) -> None:
        pauses = RestartPauses()
        while not self._ending.is_set():
            began = time.monotonic()
            code = self._run()
            if self._ending.is_set():
                return
            pause = pauses.after(time.monotonic() - began)
            self._report(f"the search service ended with exit code {code}: it is started again in {pause:.0f} s")
            self._ending.wait(pause)

    def _run(self) -> int:
        """Run it once; return its exit code."""
        with self._lock:
            if self._ending.is_set():
                return 0
            self._process = subprocess.Popen(
                # It ends when its standard input does: also if this process is killed.
                [*self._command, "--until-input-ends"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._report(line.rstrip().removeprefix("rag-pipeline: "))
        return self._process.wait()
