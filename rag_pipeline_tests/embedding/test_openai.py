"""An embedding server over HTTP: what is asked, what is made of its answers, and what happens when it fails."""

from __future__ import annotations

import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import ChunkVectors, billed_tokens
from rag_pipeline.embedding.factory import describe, describe_embedder, load_embedder
from rag_pipeline.embedding.openai.answers import reason, retry_after
from rag_pipeline.embedding.openai.batches import batches
from rag_pipeline.embedding.openai.embedder import OpenAIEmbedder
from rag_pipeline.embedding.openai.options import Options
from rag_pipeline.embedding.openai.server import Patience, RefusedTextError
from rag_pipeline.embedding.query_batches import QueriesEmbedder, QueryBatches
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError
from rag_pipeline.language.words import words
from rag_pipeline_tests.support import embedding_server as fake
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.embedding_server import (
    DIMENSION,
    Behaviour,
    LoopbackServer,
    loopback_server,
    openai_embedder,
    openai_settings,
)
from rag_pipeline_tests.support.forked import in_forked_child

KINDS = ("dense", "sparse")
TEXTS = [f"索引を正しく保つ方法 {number}" for number in range(20)]
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as server:
        yield server


@pytest.fixture
def embedder(server: LoopbackServer) -> Iterator[OpenAIEmbedder]:
    with openai_embedder(server.url, embedding_batch_texts=4) as embedder:
        yield embedder


def assert_right(found: list[ChunkVectors], texts: list[str]) -> None:
    expected = CheapEmbedder(DIMENSION).encode(texts, ["dense"])
    assert len(found) == len(texts)
    for of_text, right, text in zip(found, expected, texts, strict=True):
        np.testing.assert_allclose(of_text.dense, right.dense, atol=1e-6)
        assert of_text.dense.dtype == np.float32
        assert of_text.sparse == bm25.document_vector(words(text))
        assert of_text.token_count > 0


def test_vectors_are_in_the_order_of_the_texts_and_of_unit_length(
    server: LoopbackServer, embedder: OpenAIEmbedder
) -> None:
    assert_right(embedder.encode(TEXTS, KINDS), TEXTS)
    assert sorted(server.texts) == sorted(TEXTS)
    assert {len(request.texts) for request in server.requests} == {4}
    assert server.requests[0].body["model"] == fake.MODEL
    assert embedder.encode([], KINDS) == []


def test_only_the_kinds_that_are_asked_for_are_built(server: LoopbackServer, embedder: OpenAIEmbedder) -> None:
    assert [v.dense for v in embedder.encode(TEXTS, ["sparse"])] == [None] * len(TEXTS)
    assert server.requests == []
    with pytest.raises(RagError, match="no multi vector: see RAG_VECTORS"):
        embedder.encode(TEXTS, ["multi"])


@pytest.mark.parametrize("behaviour", [fake.backwards, fake.as_lists, fake.compressed])
def test_other_ways_to_answer_are_understood(
    server: LoopbackServer, embedder: OpenAIEmbedder, behaviour: Behaviour
) -> None:
    server.always = behaviour
    assert_right(embedder.encode(TEXTS, KINDS), TEXTS)


@pytest.mark.parametrize("refused", [("encoding_format",), ("dimensions",), ("encoding_format", "dimensions")])
def test_parameters_that_a_server_refuses_are_left_out_from_then_on(
    server: LoopbackServer, embedder: OpenAIEmbedder, refused: tuple[str, ...]
) -> None:
    server.always = fake.without(*refused)
    assert_right(embedder.encode(TEXTS[:4], KINDS), TEXTS[:4])
    asked = len(server.requests)
    assert_right(embedder.encode(TEXTS, KINDS), TEXTS)
    assert len(server.requests) == asked + len(TEXTS) // 4
    assert not set(refused) & set(server.requests[-1].body)


def test_the_dimension_is_asked_for_or_found_with_the_first_need(server: LoopbackServer) -> None:
    with openai_embedder(server.url, embedding_dimensions=None) as embedder:
        assert server.requests == []
        assert embedder.dimension == DIMENSION
        assert f"-{DIMENSION}-" in embedder.fingerprint
        assert len(server.requests) == 1
        assert "dimensions" not in server.requests[0].body
    with openai_embedder(server.url) as embedder:
        assert embedder.dimension == DIMENSION
        assert len(server.requests) == 1
        embedder.encode(TEXTS[:1], KINDS)
        assert server.requests[-1].body["dimensions"] == DIMENSION


def test_the_dimension_is_asked_for_with_the_patience_of_who_asks(server: LoopbackServer) -> None:
    patience = replace(fake.SOON, seconds=20)
    server.script.extend([fake.refusing(503)] * 5)
    with openai_embedder(server.url, patience=patience, embedding_dimensions=None) as embedder:
        assert embedder.dimension == DIMENSION, "an ingest outlasts what opens the circuit breaker"
    server.requests.clear()
    server.always = fake.refusing(503)
    with openai_embedder(server.url, patience=patience, embedding_dimensions=None) as embedder:
        for kinds in (KINDS, ["sparse"]):
            with pytest.raises(StoreUnavailableError, match=r"503 Service Unavailable: no"):
                embedder.encode_query("休暇", kinds)
    assert len(server.requests) == 3, "a search does not"


def test_a_recorded_dimension_is_not_asked_for_and_another_one_is_noticed(server: LoopbackServer) -> None:
    settings = openai_settings(server.url, embedding_dimensions=None)
    with openai_embedder(server.url, embedding_dimensions=None) as embedder:
        recorded = describe(embedder)
    server.requests.clear()
    recalled = load_embedder(settings, recorded)
    assert describe_embedder(settings, recorded) == recorded
    assert describe_embedder(openai_settings(server.url), recorded) == recorded
    assert server.requests == []
    assert_right(recalled.encode(TEXTS[:1], KINDS), TEXTS[:1])
    assert "dimensions" not in server.requests[0].body
    server.always = fake.another_dimension
    with pytest.raises(StoreUnavailableError) as raised:
        recalled.encode(TEXTS[:1], KINDS)
    assert f"the index has {DIMENSION}: set RAG_EMBEDDING_URL and RAG_EMBEDDING_MODEL" in str(raised.value)
    other = openai_settings(server.url, embedding_dimensions=None, embedding_model="acme/embed-2")
    assert describe_embedder(other, recorded).dimension == DIMENSION - 1, "another model has one of its own"
    recalled.close()
    load_embedder(other, recorded).close()


def test_a_server_that_refuses_everything_is_no_server_for_embeddings(server: LoopbackServer) -> None:
    server.always = fake.refusing(400, "this model does not support embeddings")
    with (
        openai_embedder(server.url, embedding_dimensions=None) as embedder,
        pytest.raises(StoreUnavailableError, match=r"does not support embeddings.*RAG_EMBEDDING_MODEL"),
    ):
        _ = embedder.fingerprint
    with openai_embedder(server.url) as embedder:
        with pytest.raises(
            StoreUnavailableError,
            match=r"^RAG_EMBEDDING_URL=.*does not support embeddings.*even 'dimension' is refused",
        ):
            embedder.encode_query("休暇", KINDS)
        with pytest.raises(ConfigError, match="use fewer words"):  # then each is asked alone
            embedder.encode_queries(["休暇", "予算"], KINDS, [None, None])


def test_nonsense_for_a_query_is_no_error_of_who_asks(server: LoopbackServer, embedder: OpenAIEmbedder) -> None:
    server.always = fake.spoiling("", float("nan"))
    with pytest.raises(StoreUnavailableError) as raised:
        embedder.encode_query("休暇", KINDS)
    assert str(raised.value).startswith(
        f"RAG_EMBEDDING_URL={server.url}/v1/embeddings: it sent nonsense for a query"
    )
    assert "dense vector is not finite" in str(raised.value)


@pytest.mark.parametrize(("seconds", "can_be_raised"), [(0.3, True), (30, False)])
def test_only_a_time_limit_that_can_be_raised_is_named(
    server: LoopbackServer, seconds: float, can_be_raised: bool
) -> None:
    server.always = fake.hanging
    with (
        openai_embedder(server.url, embedding_seconds=seconds) as embedder,
        pytest.raises(StoreUnavailableError, match="no answer within") as raised,
    ):
        embedder.encode_query("休暇", KINDS)
    assert ("RAG_EMBEDDING_SECONDS" in str(raised.value)) is can_be_raised


PASSING = {
    **{str(status): fake.refusing(status) for status in (408, 409, 424, 425, 429, 500, 502, 503)},
    "no answer in time": fake.hanging,
    "an answer without an end": fake.dripping,
    "no answer at all": fake.silent,
    "half an answer": fake.cutting,
}


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING)
def test_passing_failures_are_tried_again(server: LoopbackServer, behaviour: Behaviour) -> None:
    server.script.extend([behaviour] * 2)
    with openai_embedder(server.url, patience=replace(fake.SOON, seconds=20), embedding_seconds=0.3) as embedder:
        assert_right(embedder.encode(TEXTS[:2], KINDS), TEXTS[:2])
    assert not server.script


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING)
def test_a_server_that_keeps_failing_is_down_and_no_text_is_to_blame(
    server: LoopbackServer, behaviour: Behaviour
) -> None:
    server.always = behaviour
    with (
        openai_embedder(server.url, embedding_seconds=0.2) as embedder,
        pytest.raises(StoreUnavailableError) as raised,
    ):
        embedder.encode(TEXTS[:2], KINDS)
    assert str(raised.value).startswith(f"RAG_EMBEDDING_URL={server.url}/v1/embeddings: ")
    assert "\n" not in str(raised.value)
    assert len(server.requests) > 1


FINAL = {
    "wrong key": (fake.refusing(401, KEY), "401 Unauthorized: it wants the key; set RAG_EMBEDDING_API_KEY"),
    "forbidden": (fake.refusing(403), "403 Forbidden: it wants the key"),
    "unknown model": (fake.refusing(404, "no such model"), "no such model; set RAG_EMBEDDING_MODEL=acme/embed-1"),
    "moved": (fake.refusing(301), "301 Moved Permanently: no; correct the URL"),
    "moved to": (
        fake.refusing(307, headers={"Location": f"//user:{KEY}@other/v2/embeddings?token={KEY}"}),
        "307 Temporary Redirect and points to http://other/v2/embeddings; set RAG_EMBEDDING_URL to where",
    ),
    "moved nowhere": (fake.refusing(308, headers={"Location": "http://[x"}), "points to no valid URL"),
    "no money": (fake.refusing(402), "402 Payment Required"),
    "no quota": (fake.refusing(429, "you have used it up", code="insufficient_quota"), "you have used it up"),
    "no JSON": (fake.no_json, "an answer that is no JSON"),
    "too few": (fake.too_few, "1 vectors for 2 texts"),
    "too many": (fake.too_many, "3 vectors for 2 texts"),
    "another dimension": (fake.another_dimension, f"vectors of {DIMENSION - 1} dimensions, not {DIMENSION}"),
    "mixed dimensions": (fake.mixed_dimensions, f"vectors of {DIMENSION - 1} and {DIMENSION} dimensions"),
    "an index twice": (fake.one_index_twice, "indexes are not 0 to 1"),
    "no numbers": (fake.no_numbers, "neither a list of numbers nor base64"),
    "another encoding": (lambda request: request.send(200, b"", {"Content-Encoding": "br"}), "the encoding 'br'"),
    "an error with 200": (lambda request: request.send(200, {"error": "no"}), "an answer without vectors"),
}


@pytest.mark.parametrize(("behaviour", "message"), FINAL.values(), ids=FINAL)
def test_a_wrong_server_is_not_asked_again_and_no_text_is_to_blame(
    server: LoopbackServer, embedder: OpenAIEmbedder, behaviour: Behaviour, message: str
) -> None:
    server.always = behaviour
    with pytest.raises(StoreUnavailableError) as raised:
        embedder.encode(TEXTS[:2], KINDS)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"RAG_EMBEDDING_URL={server.url}/v1/embeddings: ")
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("endpoint", [fake.EMBEDDINGS, fake.EMBED_SPARSE, fake.POOLING, fake.TOKENIZE])
@pytest.mark.parametrize("behaviour", [fake.endless, fake.bomb])
def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    server: LoopbackServer, behaviour: Behaviour, endpoint: str
) -> None:
    server.always = lambda request: behaviour(request) if request.path == endpoint else fake.normally(request)
    path = fake.EMBED_SPARSE if endpoint == fake.EMBED_SPARSE else fake.POOLING
    sparse = {"embedding_sparse_url": server.url + path, "embedding_sparse_model": "acme/sparse-1"}
    kind = "dense" if endpoint == fake.EMBEDDINGS else "sparse"
    tracemalloc.start()
    try:
        with openai_embedder(server.url, embedding_dimensions=None, **sparse) as embedder:
            with pytest.raises(
                StoreUnavailableError, match=r"it sent more than \d+ MB, which no answer"
            ) as raised:
                embedder.encode(TEXTS[:1], [kind])
            assert server.url + endpoint in str(raised.value)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.blanks < 50_000_000
    assert most < 150_000_000


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_is_to_blame_with_the_servers_reason(
    server: LoopbackServer, embedder: OpenAIEmbedder, status: int
) -> None:
    server.always = fake.refusing_text("poison", status)
    embedder.encode(["harmless"], KINDS)
    with pytest.raises(RefusedTextError, match="at most 512 tokens"):
        embedder.encode(["poison"], KINDS)
    assert len(server.requests) == 2
    assert not issubclass(RefusedTextError, StoreUnavailableError | ConfigError)
    with pytest.raises(ConfigError, match="use fewer words"):
        embedder.encode_query("poison", KINDS)


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_a_vector_of_nonsense_is_about_its_text(
    server: LoopbackServer, embedder: OpenAIEmbedder, number: float
) -> None:
    for as_lists in (False, True):
        server.always = lambda request, as_lists=as_lists: request.answer(
            np.full((len(request.texts), DIMENSION), number), as_lists=as_lists
        )
        with pytest.raises(RagError, match=r"dense vector is (zero|not finite)") as raised:
            embedder.encode(["a text"], KINDS)
        assert not isinstance(raised.value, StoreUnavailableError)


def test_one_failure_ends_the_requests_that_run_and_those_that_wait(server: LoopbackServer) -> None:
    with openai_embedder(server.url, embedding_batch_texts=4, embedding_concurrency=2) as embedder:
        both = threading.Barrier(2, timeout=10)

        def meeting(then: Behaviour) -> Behaviour:
            return lambda request: (both.wait(), then(request))[1]

        server.script.extend([meeting(fake.refusing(401)), meeting(fake.hanging)])
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="401"):
            embedder.encode(TEXTS, KINDS)
        server.requests.clear()
        server.script.clear()
        assert_right(embedder.encode(TEXTS, KINDS), TEXTS)
        assert time.monotonic() - began < 5
    assert sorted(server.texts) == sorted(TEXTS), "nothing is left of the first call"


def test_requests_run_side_by_side_over_kept_connections(server: LoopbackServer) -> None:
    server.delay = 0.05
    with openai_embedder(server.url, embedding_batch_texts=1, embedding_concurrency=3) as embedder:
        for _ in range(2):
            assert_right(embedder.encode(TEXTS, KINDS), TEXTS)
    assert server.at_once == 3
    assert server.connections == 3


def test_threads_share_the_server_and_count_their_own_tokens(server: LoopbackServer) -> None:
    server.delay = 0.01
    parts = [[f"{text} {part}" for text in TEXTS[: part + 1]] for part in range(8)]

    def embed(texts: list[str]) -> int:
        before = billed_tokens(embedder)
        assert_right(embedder.encode(texts, KINDS), texts)
        return (billed_tokens(embedder) or 0) - (before or 0)

    with (
        openai_embedder(server.url, embedding_batch_texts=2) as embedder,
        ThreadPoolExecutor(len(parts)) as threads,
    ):
        assert list(threads.map(embed, parts)) == [sum(map(len, texts)) for texts in parts]
        assert billed_tokens(embedder) == 0
    assert server.at_once <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_it_works_in_a_forked_child(server: LoopbackServer, embedder: OpenAIEmbedder) -> None:
    embedder.encode(TEXTS[:1], KINDS)
    assert in_forked_child(lambda: len(embedder.encode(TEXTS, ["dense"]))) == len(TEXTS)


def test_queries_have_their_prefix_and_are_one_request(server: LoopbackServer) -> None:
    prefixes = {"embedding_query_prefix": "query: ", "embedding_passage_prefix": "passage: "}
    with openai_embedder(server.url, **prefixes) as embedder:
        assert isinstance(embedder, QueriesEmbedder)
        found = embedder.encode_queries(["休暇", "ﾊﾞｯｸｱｯﾌﾟ"], KINDS, [None, lambda words: (10, {"バックアップ": 1})])
        assert server.requests[0].texts == ["query: 休暇", "query: バックアップ"]
        assert [list(v.sparse or {}) for v in found] == [[bm25.term_id(w)] for w in ("休暇", "バックアップ")]
        assert found[1].sparse == bm25.query_vector(["バックアップ"], lambda words: (10, {"バックアップ": 1}))
        embedder.encode(["休暇"], KINDS)
        assert server.requests[1].texts == ["passage: 休暇"]
        assert len(server.requests) == 2


def test_searches_at_once_fail_together_when_the_server_is_down(server: LoopbackServer) -> None:
    server.delay = 0.2
    server.always = fake.refusing(401)
    with openai_embedder(server.url) as embedder:
        queries = QueryBatches(lambda: embedder)

        def ask(number: int) -> None:
            with pytest.raises(StoreUnavailableError, match="401"):
                queries.encode_query(f"{number}", ["dense"])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(8)))
    assert len(server.requests) < 8


def test_a_breaker_lets_one_call_through_after_a_pause() -> None:
    now = [100.0]
    breaker = CircuitBreaker(failures=3, seconds=10, clock=lambda: now[0])
    assert [breaker.failed() for _ in range(2)] == [False, False]
    assert breaker.lets_through()
    assert not breaker.answered()
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert not breaker.lets_through()
    now[0] += 10
    assert [breaker.lets_through() for _ in range(2)] == [True, False]
    assert not breaker.failed(), "it is open already"
    now[0] += 10
    assert breaker.lets_through()
    assert breaker.answered()
    assert [breaker.lets_through() for _ in range(2)] == [True, True]


def test_while_a_server_fails_queries_fail_at_once_and_texts_wait_for_it(
    server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    breaker = CircuitBreaker(failures=3, seconds=10, clock=lambda: now[0])
    patience = replace(fake.SOON, seconds=20)
    with openai_embedder(server.url, breaker=breaker, patience=patience) as embedder:
        server.always = fake.refusing(503)
        with pytest.raises(StoreUnavailableError, match="503"):
            embedder.encode_query("休暇", KINDS)
        assert len(server.requests) == 3
        server.always = fake.normally
        with pytest.raises(StoreUnavailableError, match=r"503.*, several times a moment ago"):
            embedder.encode_query("休暇", KINDS)
        assert len(server.requests) == 3
        now[0] += 10
        assert embedder.encode_query("休暇", KINDS).dense is not None
        server.script.extend([fake.refusing(503)] * 5)
        assert_right(embedder.encode(TEXTS[:1], KINDS), TEXTS[:1])
    assert [record.levelname for record in caplog.records if "openai" in record.name] == ["WARNING"] * 4
    assert caplog.text.count("answers again") == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0.5", 0.5),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("Sat, 28 Nov 2026 10:00:30 GMT", 30),
        ("Sat, 28 Nov 2026 09:00:00 GMT", 0),
        ("Sat, 28 Nov 2026 10:00:30 -0000", 30),
        ("Sun, 29 Nov 2026 99999999999:00:30 GMT", None),
        ("Sun, 29 Nov 99999999999999999999 10:00:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 251_606_527_139),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 11, 28, 10, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_throttles_is_given_the_time_that_it_asks_for(server: LoopbackServer, as_date: bool) -> None:
    # An HTTP date has whole seconds, so this one is 2 to 3 seconds ahead, less what the first request takes.
    after = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if as_date else "1"
    server.script.append(fake.throttling(after))
    with openai_embedder(server.url, patience=replace(fake.SOON, seconds=20)) as embedder:
        began = time.monotonic()
        assert_right(embedder.encode(TEXTS[:2], KINDS), TEXTS[:2])
        assert 0.9 <= time.monotonic() - began < 15
    assert len(server.requests) == 2


def test_a_server_that_asks_for_more_than_there_is_is_not_waited_for(server: LoopbackServer) -> None:
    for patience in (Patience(seconds=120, first=0.01, longest=0.05), fake.SOON):
        for after, until in (("3600", r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"), ("1e300", "the end of time")):
            server.always = fake.throttling(after)
            server.requests.clear()
            began = time.monotonic()
            with (
                openai_embedder(server.url, patience=patience) as embedder,
                pytest.raises(
                    StoreUnavailableError,
                    match=f"429 .*slow down, and asks to be left alone until {until}; lower RAG_EMBEDDING_CONCURRENCY",
                ),
            ):
                embedder.encode(TEXTS[:2], KINDS)
            assert time.monotonic() - began < 30
            assert len(server.requests) == 1


ECHOES: dict[str, Behaviour] = {
    "401": fake.refusing(401, f"Incorrect API key provided: {KEY}"),
    "400": fake.refusing(400, f"key={KEY} text too long\nBearer {KEY}"),
    "404": fake.refusing(404, KEY),
    "500": lambda request: request.send(500, f"Traceback: {dict(request.headers)}".encode()),
    "429": lambda request: request.send(429, {"detail": [{"headers": dict(request.headers)}]}),
    "cut": fake.cutting,
    "hang": fake.hanging,
    "wrong": fake.too_few,
}


@pytest.mark.parametrize("behaviour", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("secret", ["key", "password"])
def test_the_key_is_in_no_error_and_no_log(
    server: LoopbackServer, behaviour: Behaviour, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = behaviour
    url = server.url if secret == "key" else server.url.replace("//", f"//user:{KEY}@")
    key = {"embedding_api_key": KEY} if secret == "key" else {}
    settings = openai_settings(url, **key)
    with openai_embedder(url, embedding_seconds=0.2, **key) as embedder:
        for call in (lambda: embedder.encode(["a", "b"], KINDS), lambda: embedder.encode_query("a", KINDS)):
            with pytest.raises(RagError) as raised:
                call()
            error: BaseException | None = raised.value
            while error is not None:
                assert isinstance(error, RagError), "an exception of httpx holds the request, and so the key"
                assert KEY not in f"{error} {error!r} {vars(error)}"
                error = error.__cause__ or error.__context__
        assert KEY not in f"{vars(embedder)} {settings!r} {embedder.fingerprint}"
    sent = server.requests[0].headers["Authorization"]
    assert (sent == f"Bearer {KEY}") is (secret == "key")
    assert sent.startswith("Bearer " if secret == "key" else "Basic ")
    assert KEY not in caplog.text
    assert sent.split()[1] not in caplog.text


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/embeddings"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/embeddings"),
        ("https://api.example.com/v1", "https://api.example.com/v1/embeddings"),
        ("https://api.example.com/v1/", "https://api.example.com/v1/embeddings"),
        ("https://example.com/v1beta/openai", "https://example.com/v1beta/openai/embeddings"),
        ("http://[::1]:7997/embeddings", "http://[::1]:7997/embeddings"),
        ("http://user:p%40ss@host/v1", "http://host/v1/embeddings"),
    ],
)
def test_a_base_url_with_or_without_v1(url: str, endpoint: str) -> None:
    assert Options.of(openai_settings(url)).dense.url == endpoint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding_url": None}, "RAG_EMBEDDING_URL: takes the base URL"),
        ({"embedding_url": "localhost:8080"}, "RAG_EMBEDDING_URL: takes the base URL"),
        ({"embedding_url": "http://host:port/v1"}, "RAG_EMBEDDING_URL: takes the base URL"),
        ({"embedding_url": "http://host/v1?key=hunter2"}, "RAG_EMBEDDING_URL: takes .* nothing behind the path"),
        ({"embedding_url": "http://ho st/"}, "RAG_EMBEDDING_URL: takes the base URL"),
        ({"embedding_model": None}, "RAG_EMBEDDING_MODEL: "),
        ({"embedding_api_key": "hunter2\nX-Other: 1"}, "RAG_EMBEDDING_API_KEY: takes printable ASCII"),
        ({"embedding_api_key": "ключ hunter2"}, "RAG_EMBEDDING_API_KEY: takes printable ASCII"),
        (
            {"embedding_url": "http://me:hunter2@host", "embedding_api_key": "k"},
            "RAG_EMBEDDING_API_KEY: .* not both",
        ),
        ({"vectors": ("dense", "sparse", "multi")}, "set RAG_VECTORS=dense,sparse"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_embedder(openai_settings("http://127.0.0.1:1", **changed))
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_the_fingerprint_names_the_model_and_not_the_server() -> None:
    def fingerprint(**changed: object) -> str:
        return describe_embedder(openai_settings(**{"url": "http://127.0.0.1:1", **changed})).fingerprint

    assert fingerprint() == fingerprint(url="https://elsewhere/v1", embedding_api_key="k", embedding_concurrency=1)
    assert fingerprint().startswith(f"openai-{fake.MODEL}-{DIMENSION}-")
    others = [
        {"embedding_model": "other"},
        {"embedding_dimensions": 64},
        {"embedding_query_prefix": "x"},
        {"embedding_passage_prefix": "x"},
    ]
    assert len({fingerprint(), *(fingerprint(**other) for other in others)}) == 5


def test_one_embedder_serves_the_whole_process_until_its_settings_change() -> None:
    settings = openai_settings("http://127.0.0.1:1")
    assert load_embedder(settings) is load_embedder(openai_settings("http://127.0.0.1:1"))
    assert load_embedder(settings) is not load_embedder(openai_settings("http://127.0.0.1:2"))


def test_tokens_are_counted_without_the_server() -> None:
    with openai_embedder("http://127.0.0.1:1") as embedder:
        assert embedder.count_tokens("PostgreSQLのバックアップは毎日取得する。") == 11
        assert embedder.count_tokens(" \n") == 0
        assert embedder.count_tokens("\ud800\0") == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "too long"),
        (b'{"error": "too long", "error_type": "Validation"}', "too long"),
        (b'{"message": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b"too long", "too long"),
        (b"<html>", ""),
        (b"", ""),
        (b"{}", ""),
        (b'{"detail": [{"loc": 1}]}', '[{"loc": 1}]'),
        (b"\xff", "\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_the_reason_of_a_refusal_is_found_in_any_shape(body: bytes, said: str) -> None:
    assert reason(body) == said


@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.integers(1, 40),
    st.integers(1, 10),
)
def test_batches_keep_the_order_and_the_limits(sizes: list[int], most_tokens: int, most_texts: int) -> None:
    found = list(batches(sizes, most_tokens, most_texts))
    assert [index for batch in found for index in batch] == list(range(len(sizes)))
    for batch in found:
        assert 1 <= len(batch) <= most_texts
        assert len(batch) == 1 or sum(sizes[index] for index in batch) <= most_tokens
    for batch, following in pairwise(found):
        tokens = sum(sizes[index] for index in (*batch, following[0]))
        assert len(batch) == most_texts or tokens > most_tokens, "it has room for one more"


@pytest.mark.parametrize("call", [lambda e: e.encode([], KINDS), lambda e: e.count_tokens("x")])
def test_what_needs_no_vector_needs_no_server(call: Callable[[OpenAIEmbedder], object]) -> None:
    embedder = OpenAIEmbedder(Options.of(openai_settings("http://127.0.0.1:1")))
    call(embedder)
    embedder.close()
