from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency
from rag_pipeline.embedding.bge_m3 import BgeM3Embedder
from rag_pipeline.embedding.custom import CustomEmbedder
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.embedding.query_batches import QueriesEmbedder, QueryBatches
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline_tests.support.embedders import CheapEmbedder

TEXTS = [
    f"{what} {number}" for number in range(8) for what in ("休暇の取り方", "backup", "検索する方法を説明する" * 9)
]


class BatchEmbedder(CheapEmbedder):
    """Embeds several queries in a call, which waits until it may end."""

    def __init__(self, poison: str | None = None) -> None:
        super().__init__(poison=poison)
        self.batches: list[list[str]] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        self._enter([text])
        return super().encode_query(text, kinds, document_frequency)

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        assert len(document_frequencies) == len(texts)
        self._enter(texts)
        return self.encode(texts, kinds)

    def _enter(self, texts: Sequence[str]) -> None:
        self.batches.append(list(texts))
        self.entered.release()
        assert self.go_on.wait(30)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ask_while_busy(
    batches: QueryBatches, embedder: BatchEmbedder, threads: ThreadPoolExecutor, asked: Sequence[tuple[str, tuple]]
) -> list[Future[ChunkVectors]]:
    """Ask one query, have the others come while it is embedded, and let all go on."""
    first = threads.submit(batches.encode_query, "first", VECTOR_KINDS)
    assert embedder.entered.acquire(timeout=30)
    found = [first]
    for number, (text, kinds) in enumerate(asked, 1):
        found.append(threads.submit(batches.encode_query, text, kinds))
        until(lambda number=number: len(batches._batches._waiting) == number)
    embedder.go_on.set()
    return found


def test_a_query_that_comes_alone_is_embedded_as_one():
    embedder = BatchEmbedder()
    embedder.go_on.set()
    batches = QueryBatches(lambda: embedder)
    for _ in range(2):
        assert batches.encode_query("alone", ["dense"]).dense is not None
    assert embedder.batches == [["alone"], ["alone"]]


def test_queries_that_come_during_a_call_share_the_next(threads):
    embedder = BatchEmbedder()
    batches = QueryBatches(lambda: embedder)
    found = ask_while_busy(batches, embedder, threads, [(str(number), VECTOR_KINDS) for number in range(6)])
    for text, one in zip(["first", *map(str, range(6))], found, strict=True):
        alone = CheapEmbedder().encode_query(text, VECTOR_KINDS)
        np.testing.assert_array_equal(one.result(30).dense, alone.dense)
        assert one.result(30).sparse == alone.sparse
    assert embedder.batches == [["first"], ["0", "1", "2", "3", "4", "5"]]


def test_queries_for_other_kinds_of_vectors_have_a_call_of_their_own(threads):
    embedder = BatchEmbedder()
    batches = QueryBatches(lambda: embedder)
    asked = [("a", ("dense",)), ("b", ("sparse",)), ("c", ("dense",)), ("d", ("sparse",))]
    found = [one.result(30) for one in ask_while_busy(batches, embedder, threads, asked)[1:]]
    assert [(one.dense is None, one.sparse is None) for one in found] == [(False, True), (True, False)] * 2
    assert embedder.batches == [["first"], ["a", "c"], ["b", "d"]]


def test_a_query_that_cannot_be_embedded_fails_alone(threads):
    embedder = BatchEmbedder(poison="poison")
    batches = QueryBatches(lambda: embedder)
    asked = [(text, VECTOR_KINDS) for text in ("a", "poison", "b")]
    _, a, poison, b = ask_while_busy(batches, embedder, threads, asked)
    for text, one in (("a", a), ("b", b)):
        np.testing.assert_array_equal(one.result(30).dense, CheapEmbedder().encode_query(text, VECTOR_KINDS).dense)
    with pytest.raises(ValueError, match="cannot embed 'poison'"):
        poison.result(30)
    # Nobody is left behind.
    assert batches.encode_query("after", ["dense"]).dense is not None


def test_queries_fail_together_if_the_embedder_is_down(threads):
    class DownEmbedder(BatchEmbedder):
        def encode_queries(self, texts, kinds, document_frequencies):
            super().encode_queries(texts, kinds, document_frequencies)
            raise StoreUnavailableError("the embedder is down")

    embedder = DownEmbedder()
    batches = QueryBatches(lambda: embedder)
    asked = [(str(number), VECTOR_KINDS) for number in range(4)]
    first, *waiting = ask_while_busy(batches, embedder, threads, asked)
    assert first.result(30).dense is not None
    for one in waiting:
        with pytest.raises(StoreUnavailableError, match="is down"):
            one.result(30)
    assert [len(texts) for texts in embedder.batches] == [1, 4], "none is embedded alone after that"
    assert batches.encode_query("after", ["dense"]).dense is not None


def test_a_lone_query_that_cannot_be_embedded_is_tried_once(threads):
    embedder = BatchEmbedder(poison="poison")
    embedder.go_on.set()
    batches = QueryBatches(lambda: embedder)
    with pytest.raises(ValueError, match="cannot embed"):
        batches.encode_query("poison", ["dense"])
    assert embedder.batches == [["poison"]]
    assert batches.encode_query("after", ["dense"]).dense is not None


def test_an_embedder_that_gains_nothing_is_called_by_all_at_once(threads):
    entered = threading.Barrier(4, timeout=30)

    class Parallel(CheapEmbedder):
        def encode_query(self, text, kinds, document_frequency=None):
            entered.wait()
            return super().encode_query(text, kinds, document_frequency)

    for embedder in (Parallel(), CustomEmbedder(Parallel(), "a:b")):
        batches = QueryBatches(lambda embedder=embedder: embedder)
        found = [threads.submit(batches.encode_query, str(number), ["dense"]) for number in range(4)]
        assert all(one.result(30).dense is not None for one in found)


def test_the_local_embedder_has_the_same_vectors_to_the_last_bit(threads):
    embedder = LocalEmbedder()
    assert not isinstance(embedder, QueriesEmbedder)
    frequencies = [
        lambda words, number=number: (100, dict.fromkeys(words, number)) for number in range(len(TEXTS))
    ]
    alone = [embedder.encode_query(text, VECTOR_KINDS, one) for text, one in zip(TEXTS, frequencies, strict=True)]
    batches = QueryBatches(lambda: embedder)
    found = list(threads.map(batches.encode_query, TEXTS, [VECTOR_KINDS] * len(TEXTS), frequencies))
    for one, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one.dense, expected.dense)
        np.testing.assert_array_equal(one.multi, expected.multi)
        assert one.sparse == expected.sparse


def test_bge_m3_has_the_same_vectors_together(threads, tiny_bge_m3: Path, monkeypatch):
    embedder = BgeM3Embedder(str(tiny_bge_m3), arithmetic="fp32")
    assert isinstance(embedder, QueriesEmbedder)
    alone = [embedder.encode_query(text, VECTOR_KINDS) for text in TEXTS]
    sizes: list[int] = []
    encode = embedder._encode
    monkeypatch.setattr(
        embedder, "_encode", lambda texts, *options: sizes.append(len(texts)) or encode(texts, *options)
    )
    batches = QueryBatches(lambda: embedder)
    for _ in range(5):
        found = list(threads.map(batches.encode_query, TEXTS, [VECTOR_KINDS] * len(TEXTS)))
        for one, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(one.dense, expected.dense, atol=1e-5)
            np.testing.assert_allclose(one.multi, expected.multi, atol=1e-5)
            assert one.sparse == pytest.approx(expected.sparse, abs=1e-5)
    assert sum(sizes) == 5 * len(TEXTS)
    assert max(sizes) > 1
