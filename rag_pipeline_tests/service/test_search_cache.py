"""A question that several processes are asked at once is searched once, and a claim that leads to nothing delays nobody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_pipeline.service import search_cache
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.search_cache import Answer, SearchCache
from rag_pipeline_tests.support.workspace import clean_environment

QUESTION = {"query": "休暇の取り方", "limit": 10}
ANSWER = {"hits": ["誰でも休める"]}


@pytest.fixture
def processes(redis_url: str) -> Iterator[tuple[SearchCache, SearchCache]]:
    """The caches of two processes that share Redis."""
    breakers = RedisBreaker.to(redis_url), RedisBreaker.to(redis_url)
    yield SearchCache(breakers[0], 60), SearchCache(breakers[1], 60)
    for breaker in breakers:
        breaker.close()


class Search:
    """A search that waits until it may end."""

    def __init__(self, answer: Answer = ANSWER, error: Exception | None = None) -> None:
        self.times = 0
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._answer, self._error = answer, error

    def __call__(self) -> Answer:
        self.times += 1
        self.entered.set()
        assert self.go_on.wait(30)
        if self._error is not None:
            raise self._error
        return self._answer


def immediate(answer: Answer = ANSWER) -> Search:
    search = Search(answer)
    search.go_on.set()
    return search


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def keys(cache: SearchCache, prefix: str) -> list[bytes]:
    return list(cache._redis.keys(f"{prefix}*"))


def count_round_trips(cache: SearchCache, monkeypatch: pytest.MonkeyPatch) -> list[Callable]:
    asked: list[Callable] = []
    ask = cache._breaker.ask
    monkeypatch.setattr(cache._breaker, "ask", lambda call: asked.append(call) or ask(call))
    return asked


def test_a_stampede_on_two_processes_searches_once(processes, threads):
    search = Search()
    asked = [threads.submit(cache.get_or_search, QUESTION, search) for _ in range(10) for cache in processes]
    assert search.entered.wait(30)
    time.sleep(0.2)  # All have seen by now that somebody searches.
    assert not any(one.done() for one in asked)
    search.go_on.set()
    found = [one.result(30) for one in asked]
    assert search.times == 1
    assert [answer for answer, _ in found] == [ANSWER] * 20
    assert [is_cached for _, is_cached in found].count(False) == 1
    assert keys(processes[0], search_cache._CLAIM) == []


def test_an_answer_that_may_lack_the_newest_is_kept_for_a_moment_only(processes):
    strong, _ = processes
    strong.get_or_search(QUESTION, immediate())
    assert not SearchCache(strong._breaker, 60, "bounded").get_or_search(QUESTION, immediate())[1], (
        "not its answer"
    )
    kept = sorted(strong._redis.ttl(key) for key in keys(strong, search_cache._PREFIX))
    assert len(kept) == 2
    assert 0 < kept[0] <= search_cache._BEHIND_SECONDS < kept[1] <= 60
    SearchCache(strong._breaker, 0, "bounded").get_or_search({"query": "none"}, immediate())
    assert len(keys(strong, search_cache._PREFIX)) == 2


def test_many_questions_on_two_processes_are_each_searched_once(processes, threads):
    searches = [immediate({"number": number}) for number in range(100)]
    asked = [
        (number, threads.submit(cache.get_or_search, {"query": number}, searches[number]))
        for number in range(100)
        for cache in (*processes, *processes)
    ]
    assert all(one.result(30)[0] == {"number": number} for number, one in asked)
    assert [search.times for search in searches] == [1] * 100


def test_a_question_that_nobody_asked_before_costs_one_round_trip_more(processes, monkeypatch):
    asked = count_round_trips(processes[0], monkeypatch)
    assert processes[0].get_or_search(QUESTION, immediate()) == (ANSWER, False)
    assert len(asked) == 3  # the look-up, the claim, and the answer together with the end of the claim
    assert processes[0].get_or_search(QUESTION, immediate()) == (ANSWER, True)
    assert len(asked) == 4


def test_an_error_is_raised_where_it_happened_and_the_other_process_searches(processes, threads):
    failing, working = Search(error=ValueError("broken")), immediate()
    first = threads.submit(processes[0].get_or_search, QUESTION, failing)
    assert failing.entered.wait(30)
    second = threads.submit(processes[1].get_or_search, QUESTION, working)
    time.sleep(0.1)
    assert working.times == 0
    failing.go_on.set()
    with pytest.raises(ValueError, match="broken"):
        first.result(30)
    assert second.result(30) == (ANSWER, False)
    assert keys(processes[0], search_cache._CLAIM) == []
    again = immediate()
    processes[0].get_or_search({"query": "else"}, again)
    assert again.times == 1


def test_an_answer_that_is_too_large_has_the_others_search_at_once(processes, threads):
    large = {"noise": os.urandom(search_cache._LARGEST_BYTES).hex()}
    first, own = Search(large), immediate(large)
    asked = threads.submit(processes[0].get_or_search, QUESTION, first)
    assert first.entered.wait(30)
    other = threads.submit(processes[1].get_or_search, QUESTION, own)
    time.sleep(0.1)
    assert own.times == 0
    start = time.monotonic()
    first.go_on.set()
    assert asked.result(30) == other.result(30) == (large, False)
    assert time.monotonic() - start < 2
    assert own.times == 1


def test_a_process_that_dies_while_it_searches_delays_the_others_for_as_long_as_its_claim_holds(
    redis_url, processes, monkeypatch
):
    monkeypatch.setattr(search_cache, "_CLAIM_SECONDS", 1.0)
    program = (
        "import os\n"
        "from rag_pipeline.service import search_cache\n"
        "from rag_pipeline.service.redis_breaker import RedisBreaker\n"
        "search_cache._CLAIM_SECONDS = 1.0\n"
        f"cache = search_cache.SearchCache(RedisBreaker.to({redis_url!r}), 60)\n"
        f"cache.get_or_search({QUESTION!r}, lambda: os._exit(9))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], env=clean_environment()).returncode == 9
    assert len(keys(processes[0], search_cache._CLAIM)) == 1
    search, start = immediate(), time.monotonic()
    assert processes[0].get_or_search(QUESTION, search) == (ANSWER, False)
    assert time.monotonic() - start < 5
    assert search.times == 1


def test_nobody_waits_longer_than_a_claim_holds_and_only_its_owner_releases_it(processes, threads, monkeypatch):
    monkeypatch.setattr(search_cache, "_CLAIM_SECONDS", 1.0)
    slow, redis = Search(), processes[0]._redis
    first = threads.submit(processes[0].get_or_search, QUESTION, slow)
    assert slow.entered.wait(30)
    (name,) = keys(processes[0], search_cache._CLAIM)
    assert processes[1].get_or_search(QUESTION, immediate()) == (ANSWER, False)
    redis.set(name, "somebody else's")
    slow.go_on.set()
    assert first.result(30) == (ANSWER, False)
    assert redis.get(name) == b"somebody else's"


def test_without_redis_each_process_searches_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens: connections are refused.
        cache = SearchCache(RedisBreaker.to(f"redis://127.0.0.1:{taken.getsockname()[1]}/0"), 60)
        search = immediate()
        assert cache.get_or_search(QUESTION, search) == (ANSWER, False)
        assert cache.get_or_search(QUESTION, search) == (ANSWER, False)
    assert search.times == 2


def test_whoever_waits_when_redis_is_lost_searches(processes, threads, monkeypatch):
    slow, own = Search(), immediate()
    first = threads.submit(processes[0].get_or_search, QUESTION, slow)
    assert slow.entered.wait(30)
    waiting = threading.Event()
    mget = processes[1]._redis.mget

    def lost(*names: str) -> object:
        if waiting.is_set():
            raise ConnectionError("Redis is gone")
        waiting.set()
        return mget(*names)

    monkeypatch.setattr(processes[1]._redis, "mget", lost)
    assert threads.submit(processes[1].get_or_search, QUESTION, own).result(30) == (ANSWER, False)
    assert waiting.is_set()
    slow.go_on.set()
    assert first.result(30) == (ANSWER, False)
