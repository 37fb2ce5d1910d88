"""Several processes that answer at one port: `rag-pipeline serve --workers N`, by uvicorn's supervisor.

This process holds the port and starts the workers, with `spawn`; each opens a pipeline and loads an embedder of its own.
What they share is in the stores, and their metrics in a folder that is removed at the end. Each worker ends when this
process does, also if it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from rag_pipeline.errors import RagError, one_line
from rag_pipeline.service.logs import log_to_stderr
from rag_pipeline.service.server import STOP_SECONDS, http_config, raise_open_files, warm_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    import uvicorn
    from fastapi import FastAPI

    from rag_pipeline.settings import Settings

_log = logging.getLogger(__name__)

_PING_SECONDS = 0.5
"""Short, because signals are looked at between two."""
_SILENT_SECONDS = 30.0
"""A worker that does not answer its supervisor for so long hangs and is killed; loading a model takes a while."""
_GRACE_SECONDS = STOP_SECONDS + 2
"""What still runs then is killed, before whoever ends the service loses patience and kills only the supervisor."""
_FAILED, _LOCK = "failed", "lock"
_PREFIX = "rag-serve-"


def run_workers(settings: Settings, host: str, port: int, count: int, on_ready: Callable[[], None]) -> None:
    """Serve until a signal comes. `on_ready` is called when the first worker answers.

    Raises `RagError` if a worker cannot start.
    """
    remove_left_behind()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        _use(new := folder / f"{_LOCK}.new")
        new.rename(folder / _LOCK)  # Under this name it is in use from the start.
        # The client library of Prometheus reads it when it is imported: in the workers, which have not begun yet.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = name
        config = http_config(
            partial(worker_app, settings, folder), settings, host, port, workers=count, factory=True
        )
        with contextlib.closing(config.bind_socket()) as port_socket:
            # A failure is reported once, by what is raised below.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            supervisor = Supervisor(config, port_socket, folder, on_ready)
            supervisor.run()
        if supervisor.failed is not None:
            raise RagError(_reason(supervisor.failed, folder))


def _use(lock: Path) -> None:
    """Show other services that this process uses the folder of a lock: the system forgets it when the process ends."""
    fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_SH)


def remove_left_behind() -> None:
    """Remove the folders of services that were killed: those of this user that no process uses any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Somebody else may have made or removed it, or it is no folder.
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


class Supervisor(Multiprocess):
    """Starts the workers, starts those again that end, and ends all of them."""

    def __init__(
        self, config: uvicorn.Config, port_socket: socket.socket, folder: Path, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config, [port_socket])
        self._folder = folder
        self._on_ready = on_ready
        self._has_served = False
        self._heard: dict[int | None, float] = {}
        self.failed: Process | None = None
        """A worker that could not start."""

    def init_processes(self) -> None:
        """Start the workers."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Start workers again that ended; end all if one could not start, since the next could not either."""
        for number, process in enumerate(self.processes):
            if self.should_exit.is_set() or self.signal_queue:
                return  # A signal for the whole group ends the workers as well.
            if self._is_well(process):
                continue
            process.kill()
            process.join()
            self._forget(process)
            if process.exitcode == STARTUP_FAILURE or not self._has_served:
                self.failed = process
                self.should_exit.set()
                return
            _log.warning("worker %s ended with exit code %s: another is started", process.pid, process.exitcode)
            self.processes[number] = self._started()
        if not self._has_served and any(process.is_ready(_PING_SECONDS) for process in self.processes):
            self._has_served = True
            self._on_ready()

    def join_all(self) -> None:
        """Wait for the workers to end, and kill those that do not."""
        end = time.monotonic() + _GRACE_SECONDS
        for process in self.processes:
            process.process.join(max(0.0, end - time.monotonic()))
            if process.process.is_alive():
                _log.warning("worker %s did not end within %s seconds and is killed", process.pid, _GRACE_SECONDS)
                process.process.kill()
                process.process.join()

    def handle_hup(self) -> None:
        """End, as one process does when its terminal is closed."""
        self.should_exit.set()

    def _started(self) -> Process:
        process = Process(self.config, self.sockets)
        with _ctrl_c_held_back():
            process.start()
        return process

    def _is_well(self, process: Process) -> bool:
        now = time.monotonic()
        if process.is_alive(_PING_SECONDS):
            self._heard[process.pid] = now
            return True
        return process.process.is_alive() and now - self._heard.setdefault(process.pid, now) < _SILENT_SECONDS

    def _forget(self, process: Process) -> None:
        """Have the metrics forget what a worker was doing; what it has done stays counted."""
        from prometheus_client.multiprocess import mark_process_dead

        self._heard.pop(process.pid, None)
        mark_process_dead(process.pid, str(self._folder))


def worker_app(settings: Settings, folder: Path) -> FastAPI:
    """Return the application of a worker, in its process. Ends the process if that is not possible."""
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.service.app import create_app
    from rag_pipeline.service.metrics import Metrics

    log_to_stderr()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _use(folder / _LOCK)
    raise_open_files()
    try:
        # No store is needed to start: a worker that is started again while one is down waits for it like the others.
        pipeline = Pipeline(settings)
        warm_up(pipeline)
        return create_app(pipeline, Metrics(folder), closes_pipeline=True)
    except Exception as error:
        if not isinstance(error, RagError):
            _log.exception("a worker cannot start")
        # All workers fail alike; one of them leaves the reason for the supervisor to say.
        with contextlib.suppress(FileExistsError), (folder / _FAILED).open("x", encoding="utf-8") as file:
            file.write(one_line(error, 2000))
        sys.exit(STARTUP_FAILURE)


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Have a process that is started meanwhile get Ctrl-C when uvicorn can handle it, not while it imports modules."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # Starting it lets the signal through again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reason(failed: Process, folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / _FAILED).read_text("utf-8")
    return f"a worker ended with exit code {failed.exitcode} before it could answer: the lines above say why"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
