"""Vectors: a month's pending chunks are embedded in one pass and written, and complete documents switch versions.

While some batches are being written, the next is being embedded.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.errors import DimensionMismatchError, RagError, StoreUnavailableError, one_line
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.indexing.vector_writer import VectorMappingService, name_of
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import (
    built_kinds,
    consistency_repairs,
    document_chunks,
    documents,
    schema,
    vector_deletions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

_log = logging.getLogger(__name__)

_PROBE = "probe"
"""A text that any embedder can embed, unless it is down."""
_WRITERS = 2
_SWITCH_SECONDS = 1.0
_SWITCH_BATCH = 200
_MOVE_BATCH = 500


@dataclass
class VectorsResult:
    """What a month's vectors step did."""

    touched: TouchedChunks
    written: int = 0
    """Chunks whose vectors were written."""
    embedded: int = 0
    """Chunks that the embedder was asked for."""
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""
    moved: int = 0
    """Chunks that only moved: their rows in Milvus were rewritten with the stored vectors."""
    embedding_tokens: int | None = None
    """Tokens that the embedding server reported; None if there is none, or nothing was pending."""
    documents_switched: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(chunk, reason)"""

    def counts(self) -> Counts:
        """The fields of `IngestStats` that this step counts."""
        return {
            "embedded": self.embedded,
            "reused": self.reused,
            "moved": self.moved,
            "failed_chunks": len(self.failed),
        }


def index_vectors(pipeline: Pipeline, month: Month, kinds: Sequence[VectorKind] | None = None) -> VectorsResult:
    """Write the missing vectors of a month's chunks, of these kinds (default: all that are built).

    A chunk is complete with all the kinds in `RAG_VECTORS`; its document becomes searchable with its last chunk.
    Raises `StoreUnavailableError` if a store or the embedder goes down or refuses to work: what was written stays, the
    rest is pending, and the next run resumes.
    """
    built = pipeline.vectors
    return _VectorStep(pipeline, month, tuple(kind for kind in built if kinds is None or kind in kinds)).run()


def reopen_incomplete(pipeline: Pipeline, deadline: float | None = None) -> None:
    """Make pending what misses a kind in `RAG_VECTORS`, and what another chunker, or another size of chunks, has cut.

    The months' next runs do the rest. Cheap if all is as the months were built. Otherwise it reads the rows of all chunks, month by
    month, until a deadline (on the clock of `time.monotonic`); the next call resumes.
    """
    database = pipeline.stores.database
    with pipeline.one_generation():
        built = pipeline.vectors
        months = schema.months_with_documents(database)
        with database.connection() as connection:
            unknown = built_kinds.months_with_others(connection, months, built, pipeline.generation.chunker)
        for month in unknown:
            if deadline is not None and time.monotonic() > deadline:
                return
            with database.connection() as connection:
                document_chunks.reopen_incomplete(connection, month, built)
                documents.reopen_cut_otherwise(connection, month, pipeline.generation.chunker)
                built_kinds.store(connection, month, built, pipeline.generation.chunker)


class _VectorStep:
    """One call of `index_vectors`.

    This thread claims and embeds batches. Two write them: while one waits for Milvus, the other one does for PostgreSQL.
    After a batch, but not more often than once a second, they make documents live: what documents share, such as the
    counts of common words, is then written less often. The next run begins with those that a failed run left.
    """

    def __init__(self, pipeline: Pipeline, month: Month, kinds: tuple[VectorKind, ...]) -> None:
        self._pipeline = pipeline
        self._database = pipeline.stores.database
        self._month = month
        self._kinds = kinds
        self._result = VectorsResult(TouchedChunks(month))
        self._to_switch: set[UUID] = set()
        self._switched_at = time.monotonic()
        self._counting = Lock()
        self._switching = Lock()

    def run(self) -> VectorsResult:
        pipeline, month, result = self._pipeline, self._month, self._result
        schema.analyze_if_grown(self._database, month)
        with pipeline.stopwatch.stage("switch"):
            self._switch(None)
        first = self._claim(None)
        if first:
            pipeline.ensure_collections(month)
            try:
                self._index(first)
            except RagError:
                with self._database.connection() as connection:
                    document_chunks.release(connection, month)
                raise
        with pipeline.stopwatch.stage("switch"):
            self._switch(None)
            self._rewrite_moved()
            with self._database.connection() as connection:
                document_chunks.mark_failed_documents(connection, month)
                if pipeline.is_live:
                    # Somebody can have deleted documents since this run stored them.
                    consistency_repairs.refetch_items(connection, month)
            schema.analyze_if_rewritten(self._database, month, result.written)
        if first or result.moved:
            with pipeline.stopwatch.stage("settle"):
                pipeline.collections.settle(result.written + result.moved)
        return result

    def _claim(self, after: tuple[UUID, int] | None) -> list[ChunkToEmbed]:
        with self._database.connection() as connection:
            claimed = document_chunks.claim(
                connection, self._month, self._kinds, self._pipeline.settings.batch_size, after
            )
        with self._counting:
            self._result.touched.add_documents(chunk.document_id for chunk in claimed)
        return claimed

    def _index(self, batch: list[ChunkToEmbed]) -> None:
        """Embed and write batch after batch, from this one on."""
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
                embedded = self._embed(service, batch)
                while len(writing) == _WRITERS:
                    writing.popleft().result()
                writing.append(writers.submit(self._write, service, embedded))
                batch = self._claim((batch[-1].document_id, batch[-1].position))
            while writing:
                writing.popleft().result()
        if billed_before is not None:
            billed = billed_tokens(self._pipeline.embedder)
            self._result.embedding_tokens = (billed or 0) - billed_before

    def _embed(
        self, service: VectorMappingService, batch: Sequence[ChunkToEmbed]
    ) -> list[tuple[ChunkToEmbed, ChunkVectors]]:
        """Return the batch with its vectors. A chunk that cannot be embedded is found by halving, and marked failed.

        Raises `StoreUnavailableError` if it is not about the chunk: the embedder fails for any text.
        """
        from rag_pipeline.embedding.cache import encode_cached

        pipeline, result = self._pipeline, self._result
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
                result.failed.append((name_of(batch[0]), service.fail(batch[0], error)))
                return []
            half = len(batch) // 2
            return self._embed(service, batch[:half]) + self._embed(service, batch[half:])
        result.embedded += computed
        result.reused += reused
        return list(zip(batch, vectors, strict=True))

    def _check_embedder(self, error: Exception) -> None:
        """Raise `StoreUnavailableError`, with this error, if the embedder does not embed a harmless text either."""
        from rag_pipeline.embedding.cache import encode_cached

        try:
            encode_cached(self._pipeline.embedder, None, [_PROBE], self._kinds)
        except Exception as failure:
            _log.warning("the embedder fails for the text %r: %s", _PROBE, one_line(failure))
            raise StoreUnavailableError(
                f"the embedder (RAG_EMBEDDER={self._pipeline.generation.settings.embedder}) fails for every text: "
                f"{one_line(error)}; nothing was lost, run again when it works"
            ) from error

    def _write(self, service: VectorMappingService, embedded: Sequence[tuple[ChunkToEmbed, ChunkVectors]]) -> None:
        stopwatch, result = self._pipeline.stopwatch, self._result
        chunks = [chunk for chunk, _ in embedded]
        with stopwatch.stage("write"):
            failed = service.save(chunks, [vectors for _, vectors in embedded])
        without = {chunk.id for chunk, _ in failed}
        with self._counting:
            result.failed += [(name_of(chunk), reason) for chunk, reason in failed]
            result.written += len(chunks) - len(without)
            result.touched.add_written(chunk.id for chunk in chunks if chunk.id not in without)
            self._to_switch.update(chunk.document_id for chunk in chunks)
        self._pipeline.progress(f"{self._month} vectors", result.written)
        if time.monotonic() - self._switched_at > _SWITCH_SECONDS and self._switching.acquire(blocking=False):
            try:
                self._switch_written()
            finally:
                self._switching.release()

    def _switch_written(self) -> None:
        with self._counting:
            documents, self._to_switch = list(self._to_switch), set()
        with self._pipeline.stopwatch.stage("switch"):
            self._switch(documents)
        self._switched_at = time.monotonic()

    def _switch(self, documents: list[UUID] | None) -> None:
        """Make complete new versions live, up to `_SWITCH_BATCH` documents per transaction."""
        while True:
            with self._database.connection() as connection:
                switched = document_chunks.switch(connection, self._month, documents, _SWITCH_BATCH)
            with self._counting:
                self._result.documents_switched += len(switched)
                self._result.touched.add_documents(switched)
            if len(switched) < _SWITCH_BATCH:
                return

    def _rewrite_moved(self) -> None:
        """Rewrite the rows of chunks that only moved: their new position, with the vectors that are stored."""
        collections, month = self._pipeline.collections, self._month
        while True:
            with self._database.connection() as connection:
                moved = document_chunks.moved_chunks(connection, month, _MOVE_BATCH)
                counts = document_chunks.multi_counts(connection, month, [chunk.id for chunk in moved])
            if not moved:
                break
            self._pipeline.ensure_collections(month)
            # One that somebody deleted just now has no count.
            states = {chunk.id: (chunk, counts[chunk.id]) for chunk in moved if chunk.id in counts}
            for kind, generation in collections.generations.items():
                rows.update_metadata(self._pipeline.stores.milvus, kind, generation.name, month, states)
            with self._database.connection() as connection:
                document_chunks.mark_positions_stored(connection, month, moved)
                vector_deletions.add_gone(connection, month, list(counts.items()))
            self._result.moved += len(moved)
            self._result.touched.add_written(states)
            self._result.touched.add_documents(chunk.document_id for chunk in moved)
        if self._result.moved:
            self._switch(None)
