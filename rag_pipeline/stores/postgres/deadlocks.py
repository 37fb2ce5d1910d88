"""What is done again if PostgreSQL ends it, because it and another transaction waited for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg

from rag_pipeline.errors import BusyError

T = TypeVar("T")

_TRIES = 8
_LONGEST_PAUSE_SECONDS = 0.5


def despite_deadlocks(work: Callable[[], T], what: str) -> T:
    """Return what is returned by something that can be repeated as a whole.

    A deletion that cascades into several generations locks rows in an order that nobody else can follow. Raises
    `BusyError` with `what` if it is ended again and again.
    """
    try:
        return work()
    except psycopg.errors.DeadlockDetected:
        pass
    from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random

    again = Retrying(
        retry=retry_if_exception_type(psycopg.errors.DeadlockDetected),
        wait=wait_random(0, _LONGEST_PAUSE_SECONDS),
        stop=stop_after_attempt(_TRIES),
    )
    try:
        return again(work)
    except RetryError:
        raise BusyError(
            f"{what}: other transactions were in the way {_TRIES} times; run again, nothing was lost"
        ) from None
