"""Queries that are asked at once, embedded together.

It is for embedders that are quicker with several queries in a call than with several calls, which say so with
`encode_queries`. The others are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from rag_pipeline.batching import Batches
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, Embedder

_Query = tuple[str, DocumentFrequency | None]


@runtime_checkable
class QueriesEmbedder(Protocol):
    """An `Embedder` that has this method too."""

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return what `encode_query` returns for each text, which has a `document_frequency` of its own."""
        ...


class QueryBatches:
    """Embeds the queries of many threads. Thread-safe."""

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        """`embedder` is called for each query, so that a model is loaded with the first one."""
        self._embedder = embedder
        self._batches: Batches[_Query, ChunkVectors] = Batches("queries")

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query. Raises as `Batches.ask` does."""
        embedder = self._embedder()
        if not isinstance(embedder, QueriesEmbedder):
            return embedder.encode_query(text, kinds, document_frequency)
        several: QueriesEmbedder = embedder

        def alone(query: _Query) -> ChunkVectors:
            return embedder.encode_query(query[0], kinds, query[1])

        def together(queries: Sequence[_Query]) -> list[ChunkVectors]:
            texts, frequencies = zip(*queries, strict=True)
            return several.encode_queries(texts, kinds, frequencies)

        return self._batches.ask(tuple(kinds), (text, document_frequency), alone, together)
