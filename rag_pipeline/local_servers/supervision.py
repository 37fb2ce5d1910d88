"""Supervision: while `rag-pipeline dev` runs, an embedded server that dies is started again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rag_pipeline.local_servers.manager import LocalServers

_POLL_SECONDS = 1.0
_RECENT_SECONDS = 600.0
_LONGEST_PAUSE = 60.0
_ALERT_AFTER = 3


class Supervisor:
    """A context manager that watches the embedded servers in a thread of its own.

    A dead server is restarted at once; if it dies again within ten minutes, after 2, 4, 8, … up to 60 s. `report`
    receives a line for each restart, `restarted` is called after it, and `alert` receives a text when a server has
    died three times in ten minutes.
    """

    def __init__(
        self,
        servers: LocalServers,
        *,
        report: Callable[[str], None],
        restarted: Callable[[], None],
        alert: Callable[[str], None],
    ) -> None:
        self._servers = servers
        self._report = report
        self._restarted = restarted
        self._alert = alert
        self._deaths: dict[str, list[float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching. A restart that is under way is finished first."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                for name in self._servers.dead():
                    self._restart(name)
            except (RagError, OSError) as error:
                self._report(one_line(error))

    def _restart(self, name: str) -> None:
        now = time.monotonic()
        before = [death for death in self._deaths.get(name, []) if now - death < _RECENT_SECONDS]
        self._deaths[name] = [*before, now]
        pause = min(2.0 ** len(before), _LONGEST_PAUSE) if before else 0.0
        if pause:
            self._report(f"{name} ended unexpectedly again: restarting in {pause:g} s")
        if len(before) + 1 == _ALERT_AFTER:
            self._alert(f"{name} keeps ending: see the logs in {self._servers.logs}")
        if not self._stop.wait(pause):
            self._servers.restart(name)
            self._restarted()
            self._report(f"{name} ended unexpectedly and was restarted")
