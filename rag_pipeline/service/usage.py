"""What is kept of requests: uses of keys, shown chunks and, if they are logged, searches; written in batches.

A row lock for each request would make the requests of one key wait for each other. What a killed process has not written
yet is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from rag_pipeline.errors import StoreUnavailableError, one_line
from rag_pipeline.stores.postgres import api_keys, search_log
from rag_pipeline.stores.postgres.search_log import Searched
from rag_pipeline.stores.postgres.search_queries import Shown, record_search

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Database

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0
_MOST_CHUNKS = 10_000
"""More are not remembered between two writes: those that are shown most come again."""
_MOST_SEARCHES = 10_000
_PURGE_SECONDS = 60 * 60


class Usage:
    """Collects counts and writes them every two seconds, from a thread of its own. Thread-safe."""

    def __init__(self, database: Database, log_days: int) -> None:
        """Searches are logged, and older ones deleted, for so many days; 0 logs and deletes none."""
        self._database = database
        self._log_days = log_days
        self._lock = threading.Lock()
        self._keys: dict[UUID, tuple[int, datetime]] = {}
        self._shown: dict[UUID, Shown] = {}
        self._searches: list[Searched] = []
        self._purge_at = -inf
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

    def searched(self, search: Searched) -> None:
        """Log a search, if they are logged."""
        if self._log_days:
            with self._lock:
                if len(self._searches) < _MOST_SEARCHES:
                    self._searches.append(search)

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.write()
        self.write()

    def write(self) -> None:
        """Write what was counted since the last time. What cannot be written is lost, and said in the log."""
        with self._lock:
            keys, self._keys = self._keys, {}
            shown, self._shown = self._shown, {}
            searches, self._searches = self._searches, []
        try:
            if keys:
                with self._database.connection() as connection:
                    api_keys.count_uses(connection, keys)
            if shown:
                with self._database.connection() as connection:
                    record_search(connection, list(shown.values()))
            if searches:
                with self._database.connection() as connection:
                    search_log.insert(connection, searches)
            # A process that logs none cannot tell what others, which have settings of their own, still keep.
            if self._log_days and time.monotonic() >= self._purge_at:
                self._purge_at = time.monotonic() + _PURGE_SECONDS
                with self._database.connection() as connection:
                    search_log.delete_older_than(connection, self._log_days)
        except (psycopg.Error, StoreUnavailableError) as error:
            _log.warning(
                "the use of %s keys and %s chunks was not counted, %s searches were not logged: %s",
                len(keys),
                len(shown),
                len(searches),
                one_line(error),
            )
