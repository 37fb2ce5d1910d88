"""Whether the stores answer, looked at once in a few seconds however often, and by however many, it is asked."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.stores.probes import probe_milvus, probe_postgres, probe_redis

if TYPE_CHECKING:
    from rag_pipeline.endpoints import Endpoints

_SECONDS = 2.0


class Health:
    """Asks the stores. Thread-safe."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._probes = {
            "postgres": lambda: probe_postgres(endpoints.postgres_url),
            "milvus": lambda: probe_milvus(endpoints.milvus_uri),
            "redis": lambda: probe_redis(endpoints.redis_url),
        }
        self._lock = threading.Lock()
        self._found: dict[str, bool] = {}
        self._asked_at = 0.0

    def stores(self) -> dict[str, bool]:
        """Return which stores answer, as of the last look."""
        # While one looks, the others get what was found before: a store that hangs would hold all their threads.
        if self._lock.acquire(blocking=not self._found):
            try:
                if not self._found or time.monotonic() - self._asked_at > _SECONDS:
                    self._found = {name: _answers(probe) for name, probe in self._probes.items()}
                    self._asked_at = time.monotonic()
            finally:
                self._lock.release()
        return dict(self._found)


def _answers(probe: object) -> bool:
    assert callable(probe)
    try:
        probe()
    except StoreUnavailableError:
        return False
    return True
