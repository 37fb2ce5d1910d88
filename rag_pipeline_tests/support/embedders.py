"""Cheap deterministic embedders, for tests that need vectors but no model.

`RAG_EMBEDDER=rag_pipeline_tests.support.embedders:cheap`; `RAG_TEST_DIMENSION` sets the dimension (default 64).

`RAG_EMBEDDER=rag_pipeline_tests.support.embedders:slow` takes `RAG_TEST_EMBED_SECONDS` for a batch (default 0.05) and
appends a digest of each text to the file `RAG_TEST_EMBED_LOG`, so that a test knows what any process embedded. A text
that contains `RAG_TEST_POISON` cannot be embedded, one that contains `RAG_TEST_KILLER` kills the process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray

_MULTI_ROWS = 4


class CheapEmbedder:
    """Hashed character bigrams: texts that share bigrams are close, equal texts have equal vectors, none is zero.

    `multi` has four rows, one for each quarter of the text. `calls` and `texts` count what `encode` received, so that
    a test sees what was embedded again. A text that contains `poison` raises a ValueError, as a model might.
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
        """Return shape (4, d): the count of each hashed bigram in each quarter of the text."""
        quarter = np.arange(len(bigrams)) * _MULTI_ROWS // max(len(bigrams), 1)
        cells = quarter * self.dimension + bigrams % self.dimension
        rows = np.bincount(cells, minlength=_MULTI_ROWS * self.dimension).astype(np.float32)
        rows = rows.reshape(_MULTI_ROWS, self.dimension)
        # Separates texts with equal bigrams, the empty text included; too small to change any ranking.
        rows[:, int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) % self.dimension] += 0.01
        return rows


def cheap() -> CheapEmbedder:
    """The factory for `RAG_EMBEDDER`."""
    return CheapEmbedder(int(os.environ.get("RAG_TEST_DIMENSION", "64")))


def wide() -> CheapEmbedder:
    """The factory of another model, of another dimension."""
    return CheapEmbedder(96, "wide")


def broken() -> CheapEmbedder:
    """The factory of one that can be loaded, and embeds no query."""
    return CheapEmbedder(poison=" ")


class SlowEmbedder(CheapEmbedder):
    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        killer = os.environ.get("RAG_TEST_KILLER")
        if killer and any(killer in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        digests = "".join(sha256(text.encode()).hexdigest() + "\n" for text in texts)
        with Path(os.environ["RAG_TEST_EMBED_LOG"]).open("a", encoding="utf-8") as log:
            log.write(digests)
        time.sleep(float(os.environ.get("RAG_TEST_EMBED_SECONDS", "0.05")))
        return super().encode(texts, kinds)


def slow() -> SlowEmbedder:
    """The factory for `RAG_EMBEDDER`."""
    return SlowEmbedder(poison=os.environ.get("RAG_TEST_POISON"))


def _bigrams(text: str) -> np.ndarray:
    """Return a number below 2**31 for each pair of adjacent characters, ignoring white space."""
    points = np.frombuffer("".join(text.lower().split()).encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    return (points[:-1] * 1_000_003 + points[1:] * 7919) % (2**31 - 1)


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.sqrt((rows * rows).sum(axis=-1, keepdims=True))


def _sparse(bigrams: np.ndarray) -> dict[int, float]:
    ids, counts = np.unique(bigrams, return_counts=True)
    return dict(zip(ids.tolist(), counts.astype(float).tolist(), strict=True))
