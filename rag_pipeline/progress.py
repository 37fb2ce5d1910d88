"""Progress: on a terminal one line that is overwritten, elsewhere a line every few seconds, and the last of each step."""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_TERMINAL_SECONDS = 0.1
_LOG_SECONDS = 5.0
_RUN_LOG_SECONDS = 10.0


class ProgressLine:
    """A `Progress` that prints, safe to call from any thread. A context manager that leaves a clean line behind.

    What a step is waiting for is printed once.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._written = 0
        # A short command prints no progress into a log.
        self._next = time.monotonic() + (0 if self._terminal else _LOG_SECONDS)
        self._lock = threading.Lock()
        self._waited: set[str] = set()

    def __call__(self, stage: str, done: int | None = None, total: int | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._next or (done is None and stage in self._waited):
                return
            self._next = now + (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS)
            if done is None:
                self._waited.add(stage)
            text = described(stage, done, total)
            if self._terminal:
                self._stream.write("\r" + text.ljust(self._written))
                self._written = len(text)
            else:
                self._stream.write(text + "\n")
            self._stream.flush()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Leave a clean line behind, and print nothing more."""
        with self._lock:
            self._next = math.inf
            if self._terminal and self._written:
                self._stream.write("\r" + " " * self._written + "\r")
                self._stream.flush()


class ProgressLog:
    """A `Progress` for the log of a run: a line every ten seconds, and the last one of each step. Thread-safe.

    A line of a step whose total is unknown can only be its last once another step begins. What a step is waiting for
    is written once.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._next = -math.inf
        self._stage = ""
        self._withheld = ""
        self._lock = threading.Lock()
        self._waited: set[str] = set()

    def __call__(self, stage: str, done: int | None = None, total: int | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            if done is None:
                if stage not in self._waited:
                    self._waited.add(stage)
                    self._write(stage)
                return
            if stage != self._stage and self._withheld:
                self._write(self._withheld)
            self._stage, self._withheld = stage, described(stage, done, total or None)
            if now >= self._next or done == total:
                self._next = now + _RUN_LOG_SECONDS
                self._write(self._withheld)
                self._withheld = ""


def described(stage: str, done: int | None, total: int | None) -> str:
    """Return how far a step has come, or what it is waiting for, in words."""
    if done is None:
        return stage
    return f"{stage}: {done:,}" + (f" of {total:,}" if total is not None else "")
