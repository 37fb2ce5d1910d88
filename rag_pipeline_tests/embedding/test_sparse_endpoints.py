"""Sparse vectors from a server: TEI's `/embed_sparse`, and vLLM's `/pooling` with `/tokenize`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import billed_tokens
from rag_pipeline.embedding.factory import describe_embedder, load_embedder
from rag_pipeline.embedding.openai.embedder import OpenAIEmbedder
from rag_pipeline.embedding.openai.server import RefusedTextError
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError
from rag_pipeline_tests.support import embedding_server as fake
from rag_pipeline_tests.support.embedding_server import (
    Behaviour,
    LoopbackServer,
    Request,
    loopback_server,
    openai_embedder,
    openai_settings,
    sparse_vector,
)

KINDS = ("dense", "sparse")
TEXTS = [f"索引を正しく保つ方法 {number}" for number in range(20)]
KEY = "sk-very-secret-0123456789"
ENDPOINTS = {"TEI": fake.EMBED_SPARSE, "vLLM": fake.POOLING}


@pytest.fixture
def dense() -> Iterator[LoopbackServer]:
    with loopback_server() as server:
        yield server


@pytest.fixture
def sparse() -> Iterator[LoopbackServer]:
    with loopback_server() as server:
        yield server


@pytest.fixture(params=ENDPOINTS.values(), ids=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def embedder(dense: LoopbackServer, sparse: LoopbackServer, endpoint: str) -> Iterator[OpenAIEmbedder]:
    with openai_embedder(dense.url, **served_by(sparse, endpoint), embedding_batch_texts=4) as embedder:
        yield embedder


def served_by(sparse: LoopbackServer, endpoint: str) -> dict[str, Any]:
    return {"embedding_sparse_url": sparse.url + endpoint, "embedding_sparse_model": "acme/sparse-1"}


def test_vectors_are_those_of_the_server_in_the_order_of_the_texts(
    sparse: LoopbackServer, dense: LoopbackServer, embedder: OpenAIEmbedder
) -> None:
    found = embedder.encode(TEXTS, KINDS)
    assert [of_text.sparse for of_text in found] == [sparse_vector(text) for text in TEXTS]
    assert all(of_text.dense is not None for of_text in found)
    assert {request.path for request in dense.requests} == {fake.EMBEDDINGS}
    batches = [request for request in sparse.requests if request.path != fake.TOKENIZE]
    assert [len(request.texts) for request in batches] == [4] * 5
    assert embedder.encode([], KINDS) == []


def test_a_token_has_its_largest_weight_and_marks_have_none(sparse: LoopbackServer) -> None:
    def pooling(request: Request) -> None:
        if request.path == fake.POOLING:
            request.send(200, {"data": [{"data": [0.25, 0.5, 0.125, 0.75, 0.0, -1.0]}]})
        else:
            request.send(200, {"tokens": [7, 9, 7, 3, 8, 6]})

    sparse.always = pooling
    with openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.POOLING)) as embedder:
        assert [v.sparse for v in embedder.encode(["a text"], ["sparse"])] == [{7: 0.25, 9: 0.5}]


def test_queries_come_from_the_server_too_and_prefixes_are_for_dense_vectors(
    dense: LoopbackServer, sparse: LoopbackServer, endpoint: str
) -> None:
    prefixes = {"embedding_query_prefix": "query: ", "embedding_passage_prefix": "passage: "}
    with openai_embedder(dense.url, **served_by(sparse, endpoint), **prefixes) as embedder:
        found = embedder.encode_queries(["休暇", "ﾊﾞｯｸｱｯﾌﾟ"], KINDS, [None, lambda words: (10, {})])
        assert [v.sparse for v in found] == [sparse_vector("休暇"), sparse_vector("バックアップ")]
        embedder.encode(["休暇"], KINDS)
    assert dense.texts == ["query: 休暇", "query: バックアップ", "passage: 休暇"]
    assert not any(": " in text for text in sparse.texts)


def test_each_server_is_asked_only_for_what_is_wanted(
    dense: LoopbackServer, sparse: LoopbackServer, embedder: OpenAIEmbedder
) -> None:
    assert embedder.encode(TEXTS[:1], ["dense"])[0].sparse is None
    assert (len(dense.requests), len(sparse.requests)) == (1, 0)
    assert embedder.encode(TEXTS[:1], ["sparse"])[0].dense is None
    assert len(dense.requests) == 1
    assert sparse.requests


def test_its_tokens_are_billed_where_it_reports_them(dense: LoopbackServer, sparse: LoopbackServer) -> None:
    with openai_embedder(dense.url, **served_by(sparse, fake.POOLING)) as embedder:
        embedder.encode(TEXTS[:2], KINDS)
        assert billed_tokens(embedder) == 2 * sum(map(len, TEXTS[:2]))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_of_nonsense_is_not_hidden_by_another_one_of_its_token(
    sparse: LoopbackServer, odd: float
) -> None:
    for weights in ([odd, 0.5], [0.5, odd]):
        sparse.always = lambda request, weights=weights: request.send(
            200, {"tokens": [7, 7], "data": [{"data": weights}]}
        )
        with (
            openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.POOLING)) as embedder,
            pytest.raises(RagError, match="not finite"),
        ):
            embedder.encode(["a text"], ["sparse"])


def test_after_an_outage_the_first_query_that_is_let_through_is_answered(
    sparse: LoopbackServer, endpoint: str
) -> None:
    now = [0.0]
    breaker = CircuitBreaker(failures=3, seconds=10, clock=lambda: now[0])
    with openai_embedder("http://127.0.0.1:1", breaker=breaker, **served_by(sparse, endpoint)) as embedder:
        sparse.always = fake.refusing(503)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="503"):
                embedder.encode_query("休暇", ["sparse"])
        sparse.always = fake.normally
        with pytest.raises(StoreUnavailableError, match="several times a moment ago"):
            embedder.encode_query("休暇", ["sparse"])
        now[0] += 10
        assert embedder.encode_query("休暇", ["sparse"]).sparse == sparse_vector("休暇")


def test_a_failure_is_told_at_once_though_the_other_request_is_tried_again(sparse: LoopbackServer) -> None:
    sparse.always = lambda request: (
        request.refuse(404, "no such page") if request.path == fake.TOKENIZE else request.refuse(503, "later")
    )
    patience = fake.Patience(seconds=60, first=5, longest=5)
    began = time.monotonic()
    with (
        openai_embedder("http://127.0.0.1:1", patience=patience, **served_by(sparse, fake.POOLING)) as embedder,
        pytest.raises(
            StoreUnavailableError,
            match=r"^RAG_EMBEDDING_SPARSE_URL=\S+/pooling, at \S+/tokenize: .*404.* is it vLLM",
        ),
    ):
        embedder.encode(["a text"], ["sparse"])
    assert time.monotonic() - began < 30


def test_a_server_of_sparse_vectors_that_is_wrong_is_told_while_the_other_one_is_tried_again(
    dense: LoopbackServer, sparse: LoopbackServer, endpoint: str
) -> None:
    dense.always, sparse.always = fake.refusing(503), fake.refusing(401)
    patience = fake.Patience(seconds=60, first=5, longest=5)
    began = time.monotonic()
    with (
        openai_embedder(dense.url, patience=patience, **served_by(sparse, endpoint)) as embedder,
        pytest.raises(StoreUnavailableError, match="set RAG_EMBEDDING_SPARSE_API_KEY"),
    ):
        embedder.encode(["a text"], KINDS)
    assert time.monotonic() - began < 30


def test_a_text_without_terms_has_an_empty_vector(sparse: LoopbackServer) -> None:
    sparse.always = lambda request: request.send(200, [[]])
    with openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.EMBED_SPARSE)) as embedder:
        assert embedder.encode([" "], ["sparse"])[0].sparse == {}


def test_one_failure_ends_what_the_other_server_is_asked(
    dense: LoopbackServer, sparse: LoopbackServer, embedder: OpenAIEmbedder
) -> None:
    dense.always = fake.refusing(401)
    sparse.always = fake.hanging
    with pytest.raises(StoreUnavailableError, match=r"^RAG_EMBEDDING_URL=.* set RAG_EMBEDDING_API_KEY"):
        embedder.encode(TEXTS, KINDS)
    dense.always = sparse.always = fake.normally
    sparse.released.set()
    assert embedder.encode(TEXTS[:1], KINDS)[0].sparse == sparse_vector(TEXTS[0])


PASSING = {"throttles": fake.throttling("0"), "fails": fake.refusing(500), "hangs": fake.hanging}


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING)
def test_passing_failures_are_tried_again(sparse: LoopbackServer, endpoint: str, behaviour: Behaviour) -> None:
    sparse.script.extend([behaviour] * 2)
    patience = fake.Patience(seconds=20, first=0.01, longest=0.05)
    served = served_by(sparse, endpoint)
    with openai_embedder("http://127.0.0.1:1", patience=patience, embedding_seconds=0.3, **served) as embedder:
        assert embedder.encode(TEXTS[:1], ["sparse"])[0].sparse == sparse_vector(TEXTS[0])
    assert not sparse.script


def answering(content: Any) -> Behaviour:
    return lambda request: request.send(200, content)


WRONG_TEI = {
    "no JSON": (fake.no_json, "an answer that is no JSON; does it serve a model for sparse vectors"),
    "another endpoint": (answering({"data": []}), "an answer without sparse vectors"),
    "too few": (answering([[]]), "1 vectors for 2 texts"),
    "dense": (answering([[0.5], [0.5]]), "a sparse vector that is no list of indexes"),
    "no list": (answering([{"index": 1, "value": 1.0}] * 2), "a sparse vector that is no list"),
    "an index twice": (answering([[{"index": 1, "value": 1.0}] * 2, []]), "indexes, each once"),
    "words": (answering([[{"index": "a", "value": 1.0}], []]), "a sparse vector that is no list"),
    "truth": (answering([[{"index": 1, "value": True}], []]), "a sparse vector that is no list"),
    "no sparse model": (fake.refusing(424, "not a SPLADE model"), "not a SPLADE model"),
    "wrong key": (fake.refusing(401, KEY), "it wants the key; set RAG_EMBEDDING_SPARSE_API_KEY"),
    "not found": (fake.refusing(404), "set RAG_EMBEDDING_SPARSE_MODEL=acme/sparse-1"),
}
WRONG_VLLM = {
    "too few": (answering({"data": [{"data": [0.5]}]}), "1 vectors for 2 texts; does it serve BGE-M3"),
    "dense": (
        answering({"data": [{"data": [[0.5, 0.25]]}] * 2}),
        "weights that are no list of a number per token",
    ),
    "words": (answering({"data": [{"data": ["a"]}] * 2}), "weights that are no list of a number per token"),
    "nothing": (answering({"data": [{}] * 2}), "weights that are no list of a number per token"),
    "not found": (fake.refusing(404), "set RAG_EMBEDDING_SPARSE_MODEL=acme/sparse-1"),
}
WRONG = {
    **{f"TEI, {name}": (fake.EMBED_SPARSE, *case) for name, case in WRONG_TEI.items()},
    **{f"vLLM, {name}": (fake.POOLING, *case) for name, case in WRONG_VLLM.items()},
}


@pytest.mark.parametrize(("endpoint", "behaviour", "message"), WRONG.values(), ids=WRONG, indirect=["endpoint"])
def test_a_wrong_server_is_one_line_that_says_what_to_set(
    sparse: LoopbackServer, embedder: OpenAIEmbedder, endpoint: str, behaviour: Behaviour, message: str
) -> None:
    sparse.always = lambda request: fake.normally(request) if request.path == fake.TOKENIZE else behaviour(request)
    with pytest.raises(StoreUnavailableError) as raised:
        embedder.encode(TEXTS[:2], KINDS)
    assert str(raised.value).startswith(f"RAG_EMBEDDING_SPARSE_URL={sparse.url}{endpoint}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("tokens", [{"tokens": [7]}, {"tokens": ["a", "b"]}, {"tokens": None}, []])
def test_tokens_of_another_model_are_noticed(sparse: LoopbackServer, tokens: Any) -> None:
    sparse.always = lambda request: (
        request.send(200, tokens) if request.path == fake.TOKENIZE else fake.normally(request)
    )
    with openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.POOLING)) as embedder:
        with pytest.raises(RagError, match=r"weights for 1 tokens|an answer without tokens") as raised:
            embedder.encode(["two"], ["sparse"])
        if "weights for" in str(raised.value):
            assert type(raised.value) is RagError, "it can be about this text"
        with pytest.raises(StoreUnavailableError):
            embedder.encode_query("two", ["sparse"])


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "null", "1e400", "1e39"])
def test_a_weight_of_nonsense_is_about_its_text(sparse: LoopbackServer, endpoint: str, weight: str) -> None:
    def behave(request: Request) -> None:
        if request.path == fake.TOKENIZE:
            request.send(200, {"tokens": [7]})
        elif request.path == fake.POOLING:
            request.send(200, f'{{"data": [{{"data": [{weight}]}}]}}'.encode())
        else:
            request.send(200, f'[[{{"index": 7, "value": {weight}}}]]'.encode())

    sparse.always = behave
    with openai_embedder("http://127.0.0.1:1", **served_by(sparse, endpoint)) as embedder:
        with pytest.raises(RagError, match="sparse vector has a weight that is not finite") as raised:
            embedder.encode(["a text"], ["sparse"])
        assert not isinstance(raised.value, StoreUnavailableError)


def test_a_weight_of_many_digits_is_about_its_text(sparse: LoopbackServer) -> None:
    sparse.always = lambda request: request.send(200, b'[[{"index": 7, "value": 1%s}]]' % (400 * b"0"))
    with (
        openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.EMBED_SPARSE)) as embedder,
        pytest.raises(RagError, match="not finite"),
    ):
        embedder.encode(["a text"], ["sparse"])


def test_a_term_that_milvus_does_not_take_is_about_its_text(sparse: LoopbackServer) -> None:
    sparse.always = answering([[{"index": 2**32 - 1, "value": 1.0}]])
    with (
        openai_embedder("http://127.0.0.1:1", **served_by(sparse, fake.EMBED_SPARSE)) as embedder,
        pytest.raises(RagError, match="term id 4294967295"),
    ):
        embedder.encode(["a text"], ["sparse"])


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_is_to_blame(sparse: LoopbackServer, embedder: OpenAIEmbedder, status: int) -> None:
    sparse.always = fake.refusing_text("poison", status)
    embedder.encode(["harmless"], KINDS)
    with pytest.raises(
        RefusedTextError, match=r"the server of the sparse vectors refuses the text: .* at most 512"
    ):
        embedder.encode(["poison"], KINDS)
    with pytest.raises(ConfigError, match="use fewer words"):
        embedder.encode_query("poison", KINDS)


def test_each_server_gets_its_own_key_and_no_log_has_one(
    dense: LoopbackServer, sparse: LoopbackServer, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = {"embedding_api_key": "sk-dense-000", "embedding_sparse_api_key": KEY}
    settings = openai_settings(dense.url, **served_by(sparse, endpoint), **keys)
    sparse.script.append(fake.refusing(500, f"Bearer {KEY}"))
    with openai_embedder(dense.url, **served_by(sparse, endpoint), **keys) as embedder:
        embedder.encode(["a"], KINDS)
        sparse.always = fake.refusing(400, f"key={KEY}")
        with pytest.raises(RagError) as raised:
            embedder.encode(["a"], KINDS)
        assert KEY not in f"{raised.value} {vars(embedder)} {settings!r} {embedder.fingerprint} {caplog.text}"
    assert {request.headers["Authorization"] for request in dense.requests} == {"Bearer sk-dense-000"}
    assert {request.headers["Authorization"] for request in sparse.requests} == {f"Bearer {KEY}"}


def test_the_fingerprint_names_the_model_and_the_endpoint_and_not_the_server() -> None:
    def fingerprint(**changed: Any) -> str:
        return describe_embedder(openai_settings("http://127.0.0.1:1", **changed)).fingerprint

    def of(url: str, model: str = "m", **more: Any) -> str:
        return fingerprint(embedding_sparse_url=url, embedding_sparse_model=model, **more)

    here = of("http://here/embed_sparse")
    assert here == of("https://user:pw@there/x/embed_sparse/", vectors=("dense",))
    others = [fingerprint(), of("http://here/embed_sparse", "other"), of("http://here/pooling")]
    assert len({here, *others}) == 4
    assert bm25.VERSION in fingerprint()
    assert bm25.VERSION not in here, "its words are the server's"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding_sparse_url": "http://host:8080"}, "RAG_EMBEDDING_SPARSE_URL: takes an endpoint"),
        ({"embedding_sparse_url": "http://host/v1/embeddings"}, "RAG_EMBEDDING_SPARSE_URL: takes an endpoint"),
        ({"embedding_sparse_url": "host/embed_sparse"}, "RAG_EMBEDDING_SPARSE_URL: takes an endpoint"),
        ({"embedding_sparse_url": "http://h/pooling?key=hunter2"}, "RAG_EMBEDDING_SPARSE_URL: .* behind the path"),
        ({"embedding_sparse_model": None}, "RAG_EMBEDDING_SPARSE_MODEL: "),
        ({"embedding_sparse_api_key": "hunter2 2"}, "RAG_EMBEDDING_SPARSE_API_KEY: takes printable ASCII"),
        (
            {"embedding_sparse_url": "http://a:hunter2@h/pooling", "embedding_sparse_api_key": "k"},
            "RAG_EMBEDDING_SPARSE_API_KEY: .* not both: remove the one in RAG_EMBEDDING_SPARSE_URL",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(changed: dict[str, Any], message: str) -> None:
    right = {"embedding_sparse_url": "http://127.0.0.1:1/pooling", "embedding_sparse_model": "m"}
    with pytest.raises(ConfigError, match=message) as raised:
        load_embedder(openai_settings("http://127.0.0.1:1", **right | changed))
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_what_is_sent_is_what_tei_and_vllm_take(sparse: LoopbackServer) -> None:
    for endpoint in ENDPOINTS.values():
        with openai_embedder("http://127.0.0.1:1", **served_by(sparse, endpoint)) as embedder:
            embedder.encode(["ab"], ["sparse"])
    by_path = {request.path: json.loads(json.dumps(request.body)) for request in sparse.requests}
    assert by_path == {
        fake.EMBED_SPARSE: {"inputs": ["ab"]},
        fake.POOLING: {"model": "acme/sparse-1", "input": ["ab"], "task": "token_classify"},
        fake.TOKENIZE: {"model": "acme/sparse-1", "prompt": "ab", "add_special_tokens": False},
    }
