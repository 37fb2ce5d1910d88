"""Ctrl-C: a command that works for long stops at once, whatever it is waiting for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def run_until_interrupted(work: Callable[[], T], on_interrupt: Callable[[], None]) -> T:
    """Do the work in another thread and return its result, or end the process at SIGINT or SIGTERM.

    The main thread only waits, so it answers a signal even while the work is inside native code or waits for a server.
    `on_interrupt` is called while the work still goes on; then the process ends with 128 + the signal's number, without
    waiting for the work. So the work must be safe to kill at any point. A second signal ends the process at once.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threading.Thread(target=run, name="work", daemon=True).start()
        return done.result()
    except _Interrupted as interrupted:
        for number in previous:
            signal.signal(number, _exit)
        try:
            on_interrupt()
        finally:
            _exit(interrupted.number)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


def _interrupt(number: int, frame: object) -> NoReturn:
    raise _Interrupted(number)


def _exit(number: int, frame: object = None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)
