"""`search_cache`: answers in Redis, under everything that decides them.

The key holds the query, the mode, the filters, what the asker may see, the embedder's generation and the index's epoch
(`stores/postgres/index_epochs.py`), which changes with all that searches see. So an answer that
is found is the one that a search would give now, and nothing has to be removed. If Redis does not answer, every look-up
is a miss.

Whoever is the first to ask claims the question in Redis, and the other processes wait for the answer. The claim only
saves work: one that expires, or whose answer never comes, has the others search for themselves.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from rag_pipeline.service.redis_breaker import RedisBreaker, RedisDownError

if TYPE_CHECKING:
    import redis

    from rag_pipeline.settings import SearchConsistency

_PREFIX = "rag:search_cache:2:"
"""With the version of what an answer holds."""
_CLAIM = "rag:searching:1:"
_LARGEST_BYTES = 256 * 1024
"""Compressed. A hundred of the longest chunks are larger, and rarely asked for twice."""

_CLAIM_SECONDS = 5.0
"""A claim holds so long, and nobody waits longer: so much does a process cost that dies while it searches."""
_BEHIND_SECONDS = 10
"""How long an answer is kept that may lack what Milvus had been told just before."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"
"""A claim that has expired can be somebody else's by now."""

Answer = dict[str, Any]


class SearchCache:
    """Looks answers up and keeps them; the same question asked several times at once, of any process that shares Redis,
    is searched once. Thread-safe.
    """

    def __init__(self, redis: RedisBreaker, seconds: int, consistency: SearchConsistency = "strong") -> None:
        """Answers are kept for so many seconds; 0 keeps none.

        The epoch in a question moves with every change, and tells nothing of whether Milvus' answer had that change: what
        may be behind is kept for a moment only.
        """
        if consistency != "strong":
            seconds = min(seconds, _BEHIND_SECONDS)
        self._breaker = redis
        self._redis = redis.client
        self._seconds = seconds
        self._consistency = consistency
        self._lock = threading.Lock()
        self._searching: dict[str, Future[Answer]] = {}

    def get_or_search(self, question: dict[str, Any], search: Callable[[], Answer]) -> tuple[Answer, bool]:
        """Return the answer to a question, and whether it was there already. Raises what `search` raises."""
        if not self._seconds:
            return search(), False
        # With the consistency: another process that shares Redis can have another one.
        asked = {**question, "consistency": self._consistency}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if (found := _answer(self._ask(lambda: self._redis.get(_PREFIX + key)))) is not None:
            return found, True
        with self._lock:
            first = self._searching.get(key)
            mine: Future[Answer] = Future()
            if first is None:
                self._searching[key] = mine
        if first is not None:
            return first.result(), True
        try:
            answer, is_found = self._claim_and_search(key, search)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(answer)
            return answer, is_found
        finally:
            with self._lock:
                del self._searching[key]

    def _claim_and_search(self, key: str, search: Callable[[], Answer]) -> tuple[Answer, bool]:
        """Search if no other process does, else wait for its answer.

        Waiting keeps the thread, and so the turn, of a search. All turns of a process can wait like this, but none
        longer than the one search that it waits for, which would have had the turn just as long: whoever has a claim
        has a turn already and waits for no other claim, so there is no circle. Only a process that dies with claims
        keeps turns waiting for nothing, for `_CLAIM_SECONDS`.
        """
        token = secrets.token_hex(16)
        claimed = self._ask(lambda: self._claim(key, token))
        if claimed is None:
            return search(), False
        is_mine, found = claimed
        if not is_mine:
            if found is None:
                found = self._wait(key)
            # Without an answer each process searches at once, without a claim: one after the other would take longer,
            # and an answer that is too large would never come.
            return (search(), False) if found is None else (found, True)
        if found is not None:  # It came between the look-up and the claim.
            self._ask(lambda: self._release(self._redis, key, token))
            return found, True
        try:
            answer = search()
        except BaseException:
            self._ask(lambda: self._release(self._redis, key, token))
            raise
        self._ask(lambda: self._put(key, token, answer))
        return answer, False

    def _claim(self, key: str, token: str) -> tuple[bool, Answer | None]:
        """Return whether the question is this caller's to answer, and the answer if it is there now.

        redis-py's `Lock` would need a round trip more to look again, and another to be released.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(_CLAIM + key, token, nx=True, px=int(_CLAIM_SECONDS * 1000))
            pipeline.get(_PREFIX + key)
            is_mine, stored = pipeline.execute()
        return bool(is_mine), _answer(stored)

    def _wait(self, key: str) -> Answer | None:
        """Return the answer that another process is about to give; None if none comes."""
        pause, end = _FIRST_PAUSE, time.monotonic() + _CLAIM_SECONDS
        while time.monotonic() < end:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
            # Both at one moment: the claim goes only after the answer has come.
            seen = self._ask(lambda: self._redis.mget(_PREFIX + key, _CLAIM + key))
            if seen is None:
                return None
            stored, claim = seen
            if (found := _answer(stored)) is not None or claim is None:
                return found
        return None

    def _put(self, key: str, token: str, answer: Answer) -> None:
        """Keep an answer if it is not too large, and release the claim, in one round trip."""
        data = zlib.compress(json.dumps(answer, ensure_ascii=False).encode(), 1)
        with self._redis.pipeline(transaction=False) as pipeline:
            if len(data) <= _LARGEST_BYTES:
                pipeline.set(_PREFIX + key, data, ex=self._seconds)
            self._release(pipeline, key, token)
            pipeline.execute()

    def _release(self, client: redis.Redis, key: str, token: str) -> None:
        client.eval(_RELEASE, 1, _CLAIM + key, token)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns; None while Redis does not answer."""
        try:
            return self._breaker.ask(call)
        except RedisDownError:
            return None


def _answer(stored: bytes | None) -> Answer | None:
    if stored is None:
        return None
    try:
        answer: Answer = json.loads(zlib.decompress(stored))
    except (ValueError, zlib.error):
        return None  # Somebody else's, or torn: it is searched again and overwritten.
    return answer
