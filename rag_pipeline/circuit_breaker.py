"""A circuit breaker: after failures in a row, a server is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable

_FAILURES = 3
_PAUSE_SECONDS = 10.0


class CircuitBreaker:
    """Closed while the server answers. Open after some failures in a row: then one call a pause may try.

    Not thread-safe: it belongs to one event loop, or its owner has a lock.
    """

    def __init__(
        self,
        failures: int = _FAILURES,
        seconds: float = _PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._try_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server failed so often that calls may not try."""
        return self._failures >= self._most

    def lets_through(self) -> bool:
        """Whether a call may try now. While it is open, the first that asks after a pause may, and no other."""
        if not self.is_open:
            return True
        if self._clock() < self._try_again_at:
            return False
        self._try_again_at = self._clock() + self._seconds
        return True

    def failed(self) -> bool:
        """Count a failure. Return whether it opens now."""
        self._failures += 1
        if self.is_open:
            self._try_again_at = self._clock() + self._seconds
        return self._failures == self._most

    def answered(self) -> bool:
        """The server answered. Return whether it closes now."""
        was_open = self.is_open
        self._failures = 0
        return was_open
