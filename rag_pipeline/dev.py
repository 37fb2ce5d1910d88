"""`rag-pipeline dev`: the servers, the Dagster UI and the daemon, started and stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rag_pipeline.dagster_home import dagster_environment, shipped
from rag_pipeline.errors import RagError
from rag_pipeline.local_servers.manager import LocalServers
from rag_pipeline.local_servers.processes import port_is_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.settings import Settings

_STOP_SECONDS = 30
_PORTS_TRIED = 50


def run_dev(
    settings: Settings, host: str, port: int, report: Callable[[str], None], prepare: Callable[[], None]
) -> int:
    """Run until Dagster ends or a signal comes; return the exit code. Servers that were not running before are stopped.

    `prepare` is called once the servers answer, before Dagster starts.
    """
    servers = LocalServers(settings)
    running = all(state["running"] for state in servers.status().values())
    endpoints = servers.up(report)
    try:
        prepare()
        free = next((p for p in range(port, port + _PORTS_TRIED) if port_is_free(p)), None)
        if free is None:
            raise RagError(f"the ports {port} to {port + _PORTS_TRIED - 1} are all taken: choose one with --port")
        if free != port:
            report(f"port {port} is taken, so the UI is on {free}")
        # Alerts link to it; RAG_UI_URL overrides it for a UI behind a proxy.
        page = {"RAG_UI_URL": f"http://{host}:{free}"}
        environment = {**page, **os.environ, **dagster_environment(settings, endpoints)}
        report(f"Dagster UI: http://{host}:{free} (Ctrl-C stops everything)")
        command = [sys.executable, "-m", "dagster", "dev", "-w", str(shipped("workspace.yaml"))]
        return _run([*command, "--host", host, "--port", str(free)], environment, report)
    finally:
        if not running:
            servers.down(report)


def _run(command: list[str], environment: dict[str, str], report: Callable[[str], None]) -> int:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Its own session with default signals: `dagster dev` copies an ignored SIGINT to SIGTERM and could then not be
    # stopped, and Ctrl-C must reach it once, from us, not from the terminal as well.
    process = subprocess.Popen(
        ["env", "--default-signal=INT,QUIT,TERM,HUP", *command], env=environment, start_new_session=True
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        report("stopping")
        return 0
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        _stop_group(process)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Send TERM to Dagster, which stops its children; kill what remains of its group after a while."""
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline and _group_alive(process.pid):
        process.poll()
        time.sleep(0.1)
    if _group_alive(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
