"""Supervision: while `rag-pipeline dev` runs, an embedded server that dies is started again."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from rag_pipeline.local_servers.manager import LocalServers

_POLL_SECONDS = 1.0
_RECENT_SECONDS = 600.0
_LONGEST_PAUSE = 60.0
_ALERT_AFTER = 3


class Supervisor:
    """A context manager that watches the embedded servers in a thread of its own.

    A dead server is restarted at once; if servers keep dying, after 2, 4, 8, … up to 60 s, counted over ten minutes.
    `report` receives a line for each restart, `restarted` is called after it, and `alert` receives a text when a
    server has died three times in ten minutes, once until it has been quiet for as long.
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
        self._recent: deque[float] = deque()
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
                dead = self._servers.dead()
                if dead:
                    self._restart(dead)
            except (RagError, OSError) as error:
                self._report(one_line(error))

    def _restart(self, dead: Sequence[str]) -> None:
        now = time.monotonic()
        while self._recent and now - self._recent[0] > _RECENT_SECONDS:
            self._recent.popleft()
        pause = min(2.0 ** len(self._recent), _LONGEST_PAUSE) if self._recent else 0.0
        self._recent.append(now)
        names = " and ".join(dead)
        if pause:
            self._report(f"{names} ended unexpectedly again: restarting in {pause:g} s")
        if len(self._recent) == _ALERT_AFTER:
            self._alert(f"{names} keeps ending: see the logs in {self._servers.logs}")
        if self._stop.wait(pause):
            return
        self._servers.restart_dead()
        self._restarted()
        self._report(f"{names} ended unexpectedly and was restarted")
