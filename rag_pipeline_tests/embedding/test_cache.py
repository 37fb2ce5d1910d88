from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import redis

from rag_pipeline.embedding import cache as cache_module
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.cache import MAX_VALUE_BYTES, EmbeddingCache, encode_cached
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.errors import RagError
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.redis_client import connect_redis
from rag_pipeline_tests.embedders import CheapEmbedder
from rag_pipeline_tests.embedding.test_serialization import assert_same

TEXTS = ["障害から復元する。", "索引を最新に保つ。", "障害から復元する。", "", "\ud800"]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def cache(client: redis.Redis) -> EmbeddingCache:
    return EmbeddingCache(client, "cheap-64", days=30)


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"redis://:hunter2@127.0.0.1:{listener.getsockname()[1]}/0"


def test_cached_vectors_equal_computed_ones_bit_for_bit(client: redis.Redis) -> None:
    embedder = LocalEmbedder()
    cache = EmbeddingCache(client, embedder.fingerprint, days=30)
    computed, first, _ = encode_cached(embedder, cache, TEXTS, VECTOR_KINDS)
    cached, second, reused = encode_cached(embedder, cache, TEXTS, VECTOR_KINDS)
    assert (first, second, reused) == (4, 0, 5)
    for one, other in zip(cached, computed, strict=True):
        assert_same(one, other)


def test_only_what_is_new_and_distinct_is_embedded(cache: EmbeddingCache) -> None:
    embedder = CheapEmbedder()
    found, computed, reused = encode_cached(embedder, cache, ["a", "b", "a"], VECTOR_KINDS)
    assert (computed, reused, embedder.texts) == (2, 1, 2)
    assert_same(found[0], found[2])
    found, computed, reused = encode_cached(embedder, cache, ["c", "a"], VECTOR_KINDS)
    assert (computed, reused, embedder.texts) == (1, 1, 3)
    assert_same(found[1], embedder.encode_query("a", VECTOR_KINDS))


def test_another_model_and_other_kinds_are_other_entries(client: redis.Redis, cache: EmbeddingCache) -> None:
    encode_cached(CheapEmbedder(), cache, ["a"], ["dense"])
    assert cache.get(["a"], ["dense"]).keys() == {"a"}
    assert cache.get(["a"], ["dense", "sparse"]) == {}
    assert EmbeddingCache(client, "cheap-128", days=30).get(["a"], ["dense"]) == {}


def test_an_entry_lives_for_days_after_its_last_use(client: redis.Redis, cache: EmbeddingCache) -> None:
    encode_cached(CheapEmbedder(), cache, ["a"], ["dense"])
    (key,) = client.keys("embedding_cache:*:dense:*")
    assert 29 * 86_400 < client.ttl(key) <= 30 * 86_400
    client.expire(key, 60)
    cache.get(["a"], ["dense"])
    assert client.ttl(key) > 29 * 86_400


@pytest.mark.parametrize("value", [b"", b"\x01", b"not ours at all, but of a fair length: " * 3])
def test_foreign_bytes_are_embedded_again_and_overwritten(
    client: redis.Redis, cache: EmbeddingCache, value: bytes
) -> None:
    embedder = CheapEmbedder()
    encode_cached(embedder, cache, ["a"], ["dense"])
    (key,) = client.keys("embedding_cache:*")
    client.set(key, value)
    assert encode_cached(embedder, cache, ["a"], ["dense"])[1] == 1
    assert encode_cached(embedder, cache, ["a"], ["dense"])[1] == 0


def test_large_values_are_not_cached(client: redis.Redis, cache: EmbeddingCache) -> None:
    large = np.ones((1, MAX_VALUE_BYTES // 4), dtype=np.float32)
    cache.put(
        {"large": ChunkVectors(None, None, large), "small": ChunkVectors(None, None, large[:, :8])}, ["multi"]
    )
    assert cache.get(["large", "small"], ["multi"]).keys() == {"small"}


def test_vectors_that_milvus_must_not_get_are_never_cached(cache: EmbeddingCache) -> None:
    class Broken(CheapEmbedder):
        def encode(self, texts: object, kinds: object) -> list[ChunkVectors]:
            return [replace(v, dense=v.dense * np.nan) for v in super().encode(texts, kinds)]

    with pytest.raises(RagError, match="not finite"):
        encode_cached(Broken(), cache, ["a"], ["dense"])
    assert cache.get(["a"], ["dense"]) == {}


def test_an_embedder_that_loses_a_text_is_found_out() -> None:
    class Short(CheapEmbedder):
        def encode(self, texts: object, kinds: object) -> list[ChunkVectors]:
            return super().encode(texts, kinds)[1:]

    with pytest.raises(RagError, match="1 results for 2 texts"):
        encode_cached(Short(), None, ["a", "b"], ["dense"])


def test_without_redis_everything_is_embedded_and_one_warning_says_so(
    dead_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_warned", False)
    embedder, cache = CheapEmbedder(), EmbeddingCache(connect_redis(dead_url), "cheap-64", days=30)
    for _ in range(3):
        found, computed, reused = encode_cached(embedder, cache, ["a", "b"], VECTOR_KINDS)
        assert (len(found), computed, reused) == (2, 2, 0)
    assert cache.unreachable
    assert cache.failures == 1  # it was left alone after that
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text


def test_when_redis_is_back_it_is_used_again(
    redis_url: str, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE_SECONDS", 0.0)
    cache = EmbeddingCache(connect_redis(dead_url), "cheap-64", days=30)
    encode_cached(CheapEmbedder(), cache, ["a"], ["dense"])
    assert cache.unreachable
    with redis.Redis.from_url(redis_url) as back:
        cache._redis = back
        encode_cached(CheapEmbedder(), cache, ["a"], ["dense"])
        assert not cache.unreachable
        assert encode_cached(CheapEmbedder(), cache, ["a"], ["dense"])[1] == 0


def test_no_texts_cost_no_round_trip(cache: EmbeddingCache) -> None:
    assert encode_cached(CheapEmbedder(), cache, [], VECTOR_KINDS) == ([], 0, 0)
