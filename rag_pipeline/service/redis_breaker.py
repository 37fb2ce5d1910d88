"""Redis as the service uses it: many callers, short waits, and after a failure a pause in which nobody waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.errors import one_line
from rag_pipeline.stores.redis_client import connect_redis

if TYPE_CHECKING:
    import redis

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECTIONS = 100
"""More than the threads that can ask at once, so that none is turned away by the pool."""
_TIMEOUT_SECONDS = 0.5
_PAUSE_SECONDS = 5.0


class RedisDownError(Exception):
    """Redis does not answer, or did not a moment ago."""


class RedisBreaker:
    """Asks Redis, for `search_cache`, the sessions and the rate limits together. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._breaker = CircuitBreaker(failures=1, seconds=_PAUSE_SECONDS)

    @classmethod
    def to(cls, url: str) -> RedisBreaker:
        """Return one with connections of its own. Connects with the first question."""
        return cls(
            connect_redis(
                url,
                connect_timeout=_TIMEOUT_SECONDS,
                socket_timeout=_TIMEOUT_SECONDS,
                max_connections=_CONNECTIONS,
            )
        )

    def ask(self, call: Callable[[], T]) -> T:
        """Return what a call returns. Raises `RedisDownError`; while Redis is down, one call in five seconds tries."""
        from redis import RedisError

        if self._breaker.is_open:
            with self._lock:
                if not self._breaker.lets_through():
                    raise RedisDownError
        try:
            answer = call()
        except (RedisError, OSError) as error:
            with self._lock:
                if self._breaker.failed():
                    _log.warning(
                        "Redis does not answer: searches are not cached, limits are counted by each process, and "
                        "nobody can log in: %s",
                        one_line(error),
                    )
            raise RedisDownError from error
        if self._breaker.is_open:
            with self._lock:
                if self._breaker.answered():
                    _log.warning("Redis answers again")
        return answer

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
