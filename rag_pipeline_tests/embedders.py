"""A cheap deterministic embedder, for every test that needs vectors and not a model.

`RAG_EMBEDDER=rag_pipeline_tests.embedders:cheap`, with the dimension in `RAG_TEST_DIMENSION` (default 64).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray

_MULTI_ROWS = 4


class CheapEmbedder:
    """Hashed character bigrams: texts that share them are near each other, equal texts are equal, none is zero.

    `multi` has four rows, one for each fourth of the text. `calls` and `texts` count what `encode` was asked; a test reads
    them to see what was embedded again. A text that holds `poison`, where given, is refused as a model might.
    """

    def __init__(self, dimension: int = 64, fingerprint: str = "cheap", poison: str | None = None) -> None:
        self.dimension = dimension
        self.multi_dimension = dimension
        self.fingerprint = f"{fingerprint}-{dimension}"
        self.poison = poison
        self.calls = 0
        self.texts = 0

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        self.calls += 1
        self.texts += len(texts)
        return [self._one(text, kinds) for text in texts]

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        return self._one(text, kinds)

    def count_tokens(self, text: str) -> int:
        return len(text)

    def _one(self, text: str, kinds: Sequence[str]) -> ChunkVectors:
        if self.poison is not None and self.poison in text:
            raise ValueError(f"cannot embed {self.poison!r}")
        bigrams = _bigrams(text)
        rows = self._rows(text, bigrams) if "dense" in kinds or "multi" in kinds else None
        return ChunkVectors(
            dense=_unit(rows.sum(axis=0)) if rows is not None and "dense" in kinds else None,
            sparse=_sparse(bigrams) if "sparse" in kinds else None,
            multi=_unit(rows) if rows is not None and "multi" in kinds else None,
            multi_positions=[row * len(text) // _MULTI_ROWS for row in range(_MULTI_ROWS)]
            if "multi" in kinds
            else None,
            token_count=len(text),
        )

    def _rows(self, text: str, bigrams: np.ndarray) -> FloatArray:
        """(4, d): how often each bigram stands in each fourth of the text."""
        fourth = np.arange(len(bigrams)) * _MULTI_ROWS // max(len(bigrams), 1)
        places = fourth * self.dimension + bigrams % self.dimension
        rows = np.bincount(places, minlength=_MULTI_ROWS * self.dimension).astype(np.float32)
        rows = rows.reshape(_MULTI_ROWS, self.dimension)
        # Tells apart what the bigrams do not, the empty text among it, and is too small to change who is near.
        rows[:, int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) % self.dimension] += 0.01
        return rows


def cheap() -> CheapEmbedder:
    """What `RAG_EMBEDDER` names."""
    return CheapEmbedder(int(os.environ.get("RAG_TEST_DIMENSION", "64")))


def _bigrams(text: str) -> np.ndarray:
    """A number below 2**31 for each two characters that follow each other, white space left out."""
    points = np.frombuffer("".join(text.lower().split()).encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    return (points[:-1] * 1_000_003 + points[1:] * 7919) % (2**31 - 1)


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.sqrt((rows * rows).sum(axis=-1, keepdims=True))


def _sparse(bigrams: np.ndarray) -> dict[int, float]:
    ids, counts = np.unique(bigrams, return_counts=True)
    return dict(zip(ids.tolist(), counts.astype(float).tolist(), strict=True))
