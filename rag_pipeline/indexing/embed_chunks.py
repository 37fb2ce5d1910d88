"""Embed: pending chunks are claimed, embedded and written, batch after batch; while some are written, the next is embedded.

A month's run does this itself, or has workers do it on other machines: either way it is this code.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.errors import DimensionMismatchError, StoreUnavailableError, one_line
from rag_pipeline.indexing.vector_writer import VectorMappingService, name_of
from rag_pipeline.stores.postgres import document_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

_log = logging.getLogger(__name__)

_PROBE = "probe"
"""A text that any embedder can embed, unless it is down."""
_WRITERS = 2


@dataclass
class EmbeddedBatch:
    """What became of a claimed batch."""

    documents: set[UUID]
    """The documents that its chunks are of."""
    written: list[UUID] = field(default_factory=list)
    """Chunks whose vectors were written."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(chunk, reason)"""
    embedded: int = 0
    """Chunks that the embedder was asked for."""
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""


class ChunkEmbedder:
    """Embeds and writes a month's pending chunks, of these kinds of vectors.

    This thread claims and embeds batches. Two write them: while one waits for Milvus, the other one does for PostgreSQL;
    they call `done` with what became of a batch. `shared` says that others claim chunks of the month at the same time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        month: Month,
        kinds: Sequence[VectorKind],
        done: Callable[[EmbeddedBatch], None],
        *,
        shared: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._database = pipeline.stores.database
        self._month = month
        self._kinds = tuple(kinds)
        self._done = done
        self._shared = shared

    def claim(self, after: ChunkToEmbed | None = None) -> list[ChunkToEmbed]:
        """Claim the next batch, after a chunk. Nobody else has it until it is written or released."""
        with self._database.connection() as connection:
            return document_chunks.claim(
                connection,
                self._month,
                self._kinds,
                self._pipeline.settings.batch_size,
                after,
                shared=self._shared,
            )

    def run(self, batch: list[ChunkToEmbed]) -> int | None:
        """Embed and write batch after batch, from this claimed one on.

        Returns the tokens that the embedding server reported; None if there is none. Raises `StoreUnavailableError` if
        a store or the embedder goes down or refuses to work: what is not written yet stays claimed.
        """
        from rag_pipeline.embedding.base import billed_tokens

        service = VectorMappingService(
            self._database,
            self._pipeline.collections,
            self._month,
            self._kinds,
            built=self._pipeline.vectors,
            embedder=self._pipeline.embedder.fingerprint,
        )
        billed_before = billed_tokens(self._pipeline.embedder)
        writing: deque[Future[None]] = deque()
        with service, ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as writers:
            while batch:
                outcome = EmbeddedBatch({chunk.document_id for chunk in batch})
                embedded = self._embed(service, batch, outcome)
                while len(writing) == _WRITERS:
                    writing.popleft().result()
                writing.append(writers.submit(self._write, service, embedded, outcome))
                batch = self.claim(batch[-1])
            while writing:
                writing.popleft().result()
        if billed_before is None:
            return None
        return (billed_tokens(self._pipeline.embedder) or 0) - billed_before

    def _embed(
        self, service: VectorMappingService, batch: Sequence[ChunkToEmbed], outcome: EmbeddedBatch
    ) -> list[tuple[ChunkToEmbed, ChunkVectors]]:
        """Return the batch with its vectors. A chunk that cannot be embedded is found by halving, and marked failed.

        Raises `StoreUnavailableError` if it is not about the chunk: the embedder fails for any text.
        """
        from rag_pipeline.embedding.cache import encode_cached

        pipeline = self._pipeline
        cache = pipeline.cache  # Outside the `try`: a malformed RAG_REDIS_URL fails the run, not the chunk.
        try:
            with pipeline.stopwatch.stage("embed"):
                vectors, computed, reused = encode_cached(
                    pipeline.embedder, cache, [chunk.text for chunk in batch], self._kinds
                )
        except (StoreUnavailableError, DimensionMismatchError):
            raise
        except Exception as error:
            self._check_embedder(error)
            if len(batch) == 1:
                outcome.failed.append((name_of(batch[0]), service.fail(batch[0], error)))
                return []
            half = len(batch) // 2
            return self._embed(service, batch[:half], outcome) + self._embed(service, batch[half:], outcome)
        outcome.embedded += computed
        outcome.reused += reused
        return list(zip(batch, vectors, strict=True))

    def _check_embedder(self, error: Exception) -> None:
        """Raise `StoreUnavailableError`, with this error, if the embedder does not embed a harmless text either."""
        from rag_pipeline.embedding.base import TextError
        from rag_pipeline.embedding.cache import encode_cached

        try:
            encode_cached(self._pipeline.embedder, None, [_PROBE], self._kinds)
        except Exception as failure:
            _log.warning("the embedder fails for the text %r: %s", _PROBE, one_line(failure))
            server = f", {error.server}" if isinstance(error, TextError) else ""
            raise StoreUnavailableError(
                f"the embedder (RAG_EMBEDDER={self._pipeline.generation.settings.embedder}{server}) fails for every text: "
                f"{one_line(error)}; nothing was lost, run again when it works"
            ) from error

    def _write(
        self,
        service: VectorMappingService,
        embedded: Sequence[tuple[ChunkToEmbed, ChunkVectors]],
        outcome: EmbeddedBatch,
    ) -> None:
        chunks = [chunk for chunk, _ in embedded]
        with self._pipeline.stopwatch.stage("write"):
            failed = service.save(chunks, [vectors for _, vectors in embedded])
        without = {chunk.id for chunk, _ in failed}
        outcome.failed += [(name_of(chunk), reason) for chunk, reason in failed]
        outcome.written = [chunk.id for chunk in chunks if chunk.id not in without]
        self._done(outcome)
