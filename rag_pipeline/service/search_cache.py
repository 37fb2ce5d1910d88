"""`search_cache`: answers in Redis, under everything that decides them.

The key holds the query, the mode, the filters, what the asker may see, the embedder's generation and the index's epoch
(`stores/postgres/index_epochs.py`), which changes with all that searches see. So an answer that
is found is the one that a search would give now, and nothing has to be removed. If Redis does not answer, every look-up
is a miss.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rag_pipeline.service.redis_breaker import RedisBreaker, RedisDownError

_PREFIX = "rag:search_cache:1:"
_LARGEST_BYTES = 256 * 1024
"""Compressed. A hundred of the longest chunks are larger, and rarely asked for twice."""

Answer = dict[str, Any]


class SearchCache:
    """Looks answers up and keeps them; the same question asked several times at once is searched once. Thread-safe."""

    def __init__(self, redis: RedisBreaker, seconds: int) -> None:
        """Answers are kept for so many seconds; 0 keeps none."""
        self._breaker = redis
        self._redis = redis.client
        self._seconds = seconds
        self._lock = threading.Lock()
        self._searching: dict[str, Future[Answer]] = {}

    def get_or_search(self, question: dict[str, Any], search: Callable[[], Answer]) -> tuple[Answer, bool]:
        """Return the answer to a question, and whether it was there already. Raises what `search` raises."""
        if not self._seconds:
            return search(), False
        key = _PREFIX + hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        if (found := self._get(key)) is not None:
            return found, True
        with self._lock:
            first = self._searching.get(key)
            mine: Future[Answer] = Future()
            if first is None:
                self._searching[key] = mine
        if first is not None:
            return first.result(), True
        try:
            answer = search()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(answer)
            self._put(key, answer)
            return answer, False
        finally:
            with self._lock:
                del self._searching[key]

    def _get(self, key: str) -> Answer | None:
        stored = self._ask(lambda: self._redis.get(key))
        if stored is None:
            return None
        try:
            answer: Answer = json.loads(zlib.decompress(stored))
        except (ValueError, zlib.error):
            return None  # Somebody else's, or torn: it is searched again and overwritten.
        return answer

    def _put(self, key: str, answer: Answer) -> None:
        data = zlib.compress(json.dumps(answer, ensure_ascii=False).encode(), 1)
        if len(data) <= _LARGEST_BYTES:
            self._ask(lambda: self._redis.set(key, data, ex=self._seconds))

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return self._breaker.ask(call)
        except RedisDownError:
            return None
