"""How many requests a minute a key may make: a sliding window in Redis, for all processes together.

Without Redis each process counts for itself, so that keys go on working and none becomes unlimited.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import RateLimiter, SlidingWindowCounterRateLimiter

from rag_pipeline.service.redis_breaker import RedisBreaker, RedisDownError


@dataclass(frozen=True)
class Admission:
    """What is left of a key's minute after a request."""

    is_admitted: bool
    limit: int
    remaining: int
    reset_seconds: int
    """Until the whole limit is there again."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell the caller (draft-ietf-httpapi-ratelimit-headers-07)."""
        found = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }
        return found if self.is_admitted else {**found, "Retry-After": str(max(1, self.reset_seconds))}


class RateLimits:
    """Counts the requests of keys. Thread-safe."""

    def __init__(self, redis: RedisBreaker) -> None:
        storage = RedisStorage("redis://", connection_pool=redis.client.connection_pool, key_prefix="rag:rate")
        self._redis = redis
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())

    def admit(self, who: str, per_minute: int) -> Admission:
        """Count a request of a key, or whatever else is counted, and say whether it may go on."""
        try:
            return self._redis.ask(lambda: _admit(self._shared, who, per_minute))
        except RedisDownError:
            return _admit(self._own, who, per_minute)


def _admit(limiter: RateLimiter, who: str, per_minute: int) -> Admission:
    item = RateLimitItemPerMinute(per_minute)
    is_admitted = limiter.hit(item, who)
    window = limiter.get_window_stats(item, who)
    return Admission(
        is_admitted, per_minute, max(0, window.remaining), max(0, math.ceil(window.reset_time - time.time()))
    )
