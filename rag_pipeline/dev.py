"""`rag-pipeline dev`: the servers, the Dagster UI and the daemon, and the search service, started and stopped together."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rag_pipeline import running_dev
from rag_pipeline.dagster_home import QUIET, dagster_environment, shipped
from rag_pipeline.dagster_output import DagsterOutput
from rag_pipeline.dagster_process import DagsterProcess
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.local_servers.manager import LocalServers
from rag_pipeline.local_servers.processes import port_is_free, try_lock
from rag_pipeline.local_servers.supervision import Supervisor
from rag_pipeline.private_files import make_home, make_private_folder
from rag_pipeline.service_process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rag_pipeline.settings import Settings

_PORTS_TRIED, _PORTS_END = 50, 65536


def run_dev(
    settings: Settings,
    host: str,
    ports: tuple[int, int],
    report: Callable[[str], None],
    prepare: Callable[[], None],
    cancel_runs: Callable[[], None],
) -> int:
    """Run until a signal comes, or Dagster cannot be kept running; return the exit code. Servers that were not running
    before are stopped.

    `ports` are those of the Dagster UI and of the search page. `prepare` is called whenever servers were started and
    answer, the first time before Dagster starts; `cancel_runs` before Dagster is stopped and after it. Raises a `RagError`
    if another `rag-pipeline dev` runs in the same home: two daemons would do everything twice.
    """
    # Before anything is started: a signal that ended this process at once would leave it behind.
    with _Signals() as signals, ExitStack() as stack:
        try:
            return _run(stack, settings, host, ports, report, prepare, cancel_runs)
        except KeyboardInterrupt:
            report("stopping")
            return 0
        finally:
            signals.are_ignored = True


class _Signals:
    """Has each signal that ends `dev` raise `KeyboardInterrupt`, until they are ignored: what ends is not disturbed.

    Use it in a `with` statement.
    """

    def __init__(self) -> None:
        self.are_ignored = False

    def __enter__(self) -> _Signals:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        if not self.are_ignored:
            self.are_ignored = True
            raise KeyboardInterrupt


def _run(
    stack: ExitStack,
    settings: Settings,
    host: str,
    ports: tuple[int, int],
    report: Callable[[str], None],
    prepare: Callable[[], None],
    cancel_runs: Callable[[], None],
) -> int:
    """Start everything, and wait until Dagster cannot be kept running; `stack` stops what was started."""
    lock = stack.enter_context(_only_one(settings.home_path))
    servers = LocalServers(settings)
    before = servers.running()
    stack.callback(_stop_servers, servers, before, report)
    endpoints = servers.up(report)
    prepare()
    free, search_port = _free_port(ports[0], "--port"), _free_port(ports[1], "--search-port")
    for what, wanted, found in (("UI", ports[0], free), ("search page", ports[1], search_port)):
        if found != wanted:
            report(f"port {wanted} is taken, so the {what} is on {found}")
    # Alerts and pages link to them; the variables override them for what is behind a proxy.
    page = {"RAG_UI_URL": f"http://{host}:{free}", "RAG_SEARCH_URL": f"http://{host}:{search_port}"}
    unbuffered = {"PYTHONUNBUFFERED": "1"}
    environment = {**QUIET, **page, **unbuffered, **os.environ, **dagster_environment(settings, endpoints)}
    log = servers.logs / "dagster.log"
    make_private_folder(servers.logs)
    stops = "everything but the servers, which ran before" if before else "everything"
    report(f"Dagster UI: http://{host}:{free} (Ctrl-C stops {stops}); all of Dagster's output: {log}")
    if unused := _unused_configuration(Path.cwd()):
        report(
            f"{unused} is not used: to configure Dagster with it, run `dagster dev` with a DAGSTER_HOME of your own"
        )
    output = stack.enter_context(DagsterOutput(log, report))
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(shipped("workspace.yaml"))]
    command += ["--host", host, "--port", str(free)]
    alert = partial(_alert, settings, report, "embedded servers")
    stack.enter_context(Supervisor(servers, report=report, restarted=prepare, alert=alert))
    stack.enter_context(ServiceProcess(host, search_port, {**page, **os.environ}, report))

    dagster = DagsterProcess(
        command,
        environment,
        output,
        lock,
        report=report,
        alert=lambda text: _alert(settings, report, "Dagster", f"{text}: see {log}"),
        started=lambda number: running_dev.publish(lock, number, page["RAG_UI_URL"], page["RAG_SEARCH_URL"]),
    )
    # Twice: its daemon may start a queued run until it has ended.
    stack.callback(_try, cancel_runs, report)
    stack.enter_context(dagster)
    stack.callback(_try, cancel_runs, report)
    ended = dagster.keep_running()
    _alert(settings, report, "Dagster", f"{ended}, so rag-pipeline dev ends: see {log}")
    return 1


def _unused_configuration(folder: Path) -> Path | None:
    """Return the configuration of Dagster in the current folder if it is not ours, which alone is used."""
    found = next((path for name in ("dagster.yaml", "dagster.yml") if (path := folder / name).is_file()), None)
    return found if found is not None and not found.samefile(shipped("dagster.yaml")) else None


def _free_port(first: int, option: str) -> int:
    last = min(first + _PORTS_TRIED, _PORTS_END) - 1
    found = next((port for port in range(first, last + 1) if port_is_free(port)), None)
    if found is None:
        raise RagError(f"the ports {first} to {last} are all taken: choose one with {option}")
    return found


@contextmanager
def _only_one(home: Path) -> Iterator[int]:
    """Hold the lock of the one `dev` of a home; yields its descriptor, which Dagster inherits.

    So the lock is held for as long as Dagster runs, also if this process is killed. Raises a `RagError` if it is held.
    """
    path = home / running_dev.FILE
    try:
        make_home(home)
        lock = try_lock(path)
    except OSError as error:
        raise RagError(f"cannot write {path}: {one_line(error)}; fix that, or set RAG_HOME") from None
    if lock is None:
        raise RagError(_already_running(home))
    try:
        os.truncate(path, 0)
        yield lock
    finally:
        os.close(lock)


def refuse_beside_dev(home: Path) -> None:
    """Raise a `RagError` that says how to stop it if a `dev` runs in a home."""
    path = home / running_dev.FILE
    if not path.exists():
        return
    if (lock := try_lock(path)) is None:
        raise RagError(f"nothing was stopped, as dev would start it again: {_already_running(home)}")
    os.close(lock)


def _already_running(home: Path) -> str:
    dev = running_dev.running_dev(home)
    said = f"rag-pipeline dev is already running in {home}: {dev.ui_url if dev else 'it is starting'}"
    return f"{said}; to stop it, press Ctrl-C there, or: kill {dev.pid}" if dev else said


def _try(cancel_runs: Callable[[], None], report: Callable[[str], None]) -> None:
    """Cancel the runs; that it is impossible must not keep anything from being stopped."""
    try:
        cancel_runs()
    except RagError as error:
        report(f"runs that go on are killed, and reported as failed at the next start: {one_line(error)}")


def _stop_servers(servers: LocalServers, before: Sequence[str], report: Callable[[str], None]) -> None:
    """Stop the servers that were not running before, and say which are left."""
    servers.down(report, leave=before)
    if before:
        report(f"left running, as before: {', '.join(before)}; `rag-pipeline down` stops them")


def _alert(settings: Settings, report: Callable[[str], None], what: str, text: str) -> None:
    """Tell people and receivers directly: what Dagster would tell them is in a database that may be down."""
    from rag_pipeline.alerts.messages import Message
    from rag_pipeline.alerts.receivers import receivers

    report(text)
    for receiver in receivers(settings):
        receiver.send(Message(f"rag-pipeline: Failing: {what}", text, "failing"))
