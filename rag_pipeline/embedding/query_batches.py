"""Queries that are asked at once, embedded together: while one call runs, those that come wait, and the next takes all.

There is no timer, so a query that comes alone is embedded at once. It is for embedders that are quicker with several
queries in a call than with several calls, which say so with `encode_queries`. The others are called as they are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, Embedder
from rag_pipeline.errors import one_line

_log = logging.getLogger(__name__)


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
        self._lock = threading.Lock()
        self._is_busy = False
        self._waiting: list[_Query] = []

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query. Raises what the embedder raises for this query alone."""
        embedder = self._embedder()
        if not isinstance(embedder, QueriesEmbedder):
            return embedder.encode_query(text, kinds, document_frequency)
        mine = _Query(text, tuple(kinds), document_frequency)
        with self._lock:
            self._waiting.append(mine)
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            mine.turn.wait()
        if mine.vectors is not None:
            return mine.vectors
        # After a batch that failed, each is embedded alone: one query must not fail those of others.
        return embedder.encode_query(*mine.arguments) if mine.is_taken else self._encode_waiting(embedder, mine)

    def _encode_waiting(self, embedder: Embedder, mine: _Query) -> ChunkVectors:
        """Embed all that wait for the same kinds of vectors, and hand over to the next that waits; return my vectors."""
        with self._lock:
            batch = [query for query in self._waiting if query.kinds == mine.kinds]
            self._waiting = [query for query in self._waiting if query.kinds != mine.kinds]
        try:
            if len(batch) > 1:
                self._encode(embedder, batch)
            return mine.vectors or embedder.encode_query(*mine.arguments)
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._is_busy = bool(following)
            for query in batch:
                query.is_taken = True
            for query in (*batch, *following):
                query.turn.set()

    def _encode(self, embedder: Embedder, batch: Sequence[_Query]) -> None:
        assert isinstance(embedder, QueriesEmbedder)
        try:
            vectors = embedder.encode_queries(
                [query.text for query in batch],
                batch[0].kinds,
                [query.document_frequency for query in batch],
            )
            for query, of_query in zip(batch, vectors, strict=True):
                query.vectors = of_query
        except Exception as error:
            _log.warning(
                "%s queries are embedded one by one: together they failed: %s", len(batch), one_line(error)
            )


class _Query:
    """A query that waits for its vectors, or for its turn to embed those that wait."""

    def __init__(self, text: str, kinds: tuple[str, ...], document_frequency: DocumentFrequency | None) -> None:
        self.text, self.kinds, self.document_frequency = text, kinds, document_frequency
        self.turn = threading.Event()
        self.is_taken = False
        """Whether it was in a batch that has ended."""
        self.vectors: ChunkVectors | None = None

    @property
    def arguments(self) -> tuple[str, tuple[str, ...], DocumentFrequency | None]:
        return self.text, self.kinds, self.document_frequency
