"""What is counted of requests: uses of keys and shown chunks, written in batches.

A row lock for each request would make the requests of one key wait for each other. What a killed process has not written
yet is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from rag_pipeline.errors import StoreUnavailableError, one_line
from rag_pipeline.stores.postgres import api_keys
from rag_pipeline.stores.postgres.search_queries import Shown, record_search

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Database

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0
_MOST_CHUNKS = 10_000
"""More are not remembered between two writes: those that are shown most come again."""


class Usage:
    """Collects counts and writes them every two seconds, from a thread of its own. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._keys: dict[UUID, tuple[int, datetime]] = {}
        self._shown: dict[UUID, Shown] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left."""
        self._end.set()
        self._thread.join()

    def used(self, key: UUID) -> None:
        """Count a request of a key."""
        with self._lock:
            count, _ = self._keys.get(key, (0, None))
            self._keys[key] = count + 1, datetime.now(UTC)

    def shown(self, chunks: Iterable[Shown]) -> None:
        """Count chunks that were shown."""
        with self._lock:
            for chunk in chunks:
                before = self._shown.get(chunk.id)
                if before is not None:
                    self._shown[chunk.id] = replace(chunk, times=before.times + chunk.times)
                elif len(self._shown) < _MOST_CHUNKS:
                    self._shown[chunk.id] = chunk

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.write()
        self.write()

    def write(self) -> None:
        """Write what was counted since the last time. What cannot be written is lost, and said in the log."""
        with self._lock:
            keys, self._keys = self._keys, {}
            shown, self._shown = self._shown, {}
        try:
            if keys:
                with self._database.connection() as connection:
                    api_keys.count_uses(connection, keys)
            if shown:
                with self._database.connection() as connection:
                    record_search(connection, list(shown.values()))
        except (psycopg.Error, StoreUnavailableError) as error:
            _log.warning(
                "the use of %s keys and %s chunks was not counted: %s", len(keys), len(shown), one_line(error)
            )
