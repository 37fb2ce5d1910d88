"""An embedder that costs almost nothing, to measure the cost of everything else: `benchmarks.free_embedder:make`.

Dense vectors of 1024 dimensions, 30 sparse terms and two multi-vectors, from a generator seeded with the text.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency

DIMENSION = 1024


class FreeEmbedder:
    fingerprint = "free"
    dimension = DIMENSION
    multi_dimension = 64

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        return [self._one(text, kinds) for text in texts]

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        return self._one(text, kinds)

    def count_tokens(self, text: str) -> int:
        return len(text) * 2 // 3 + 1

    def _one(self, text: str, kinds: Sequence[str]) -> ChunkVectors:
        generator = np.random.Generator(np.random.SFC64(zlib.crc32(text.encode())))
        return ChunkVectors(
            dense=_unit(generator, 1, DIMENSION)[0] if "dense" in kinds else None,
            sparse=dict.fromkeys(generator.integers(0, 50_000, 30).tolist(), 1.0) if "sparse" in kinds else None,
            multi=_unit(generator, 2, 64) if "multi" in kinds else None,
            token_count=self.count_tokens(text),
        )


def _unit(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    vectors = generator.standard_normal((rows, columns), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make() -> FreeEmbedder:
    return FreeEmbedder()
