"""An embedder that costs almost nothing, to measure the cost of everything else: `benchmarks.free_embedder:make`.

Dense vectors of 1024 dimensions, 30 sparse terms and two multi-vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.free_vectors import DIMENSION, generator_of, unit_vectors
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency


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
        generator = generator_of(text)
        return ChunkVectors(
            dense=unit_vectors(generator, 1, DIMENSION)[0] if "dense" in kinds else None,
            sparse=dict.fromkeys(generator.integers(0, 50_000, 30).tolist(), 1.0) if "sparse" in kinds else None,
            multi=unit_vectors(generator, 2, 64) if "multi" in kinds else None,
            token_count=self.count_tokens(text),
        )


class FreeEmbedderOfLongChunks(FreeEmbedder):
    """Counts four characters as a token: a chunk holds 1,600 characters, as those of the peers do."""

    def count_tokens(self, text: str) -> int:
        return len(text) // 4 + 1


def make() -> FreeEmbedder:
    return FreeEmbedder()


def make_of_long_chunks() -> FreeEmbedder:
    return FreeEmbedderOfLongChunks()
