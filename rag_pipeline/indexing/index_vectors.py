"""Vectors: a month's pending chunks are embedded in one pass and written, and complete documents switch versions."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.errors import RagError
from rag_pipeline.indexing.embed_chunks import ChunkEmbedder
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import (
    built_kinds,
    consistency_repairs,
    document_chunks,
    documents,
    schema,
    vector_deletions,
)
from rag_pipeline.stores.postgres.deadlocks import despite_deadlocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rag_pipeline.distributed.fleet import MemberReport
    from rag_pipeline.indexing.embed_chunks import EmbeddedBatch
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Database

_SWITCH_SECONDS = 1.0
_SWITCH_BATCH = 200
_MOVE_BATCH = 500
_COMPARED_DOCUMENTS, _COMPARED_CHUNKS = 1000, 5000


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
    workers: list[MemberReport] = field(default_factory=list)
    """What each worker of Ray did; empty if this process embedded."""

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

    The months' next runs do the rest. Cheap if all is as the months were built. Otherwise it reads the rows of all
    chunks, month by month, until a deadline (on the clock of `time.monotonic`); the next call goes on from there.
    """
    database = pipeline.stores.database
    with pipeline.one_generation():
        built, chunker = pipeline.vectors, pipeline.generation.chunker
        months = schema.months_with_documents(database)
        with database.connection() as connection:
            unknown = built_kinds.months_with_others(connection, months, built, chunker)
        for month in unknown:
            with database.connection() as connection:
                after = built_kinds.compared_to(connection, month, built, chunker)
            compare = partial(_compare_some, database, month, built, chunker)
            while deadline is None or time.monotonic() <= deadline:
                after = despite_deadlocks(partial(compare, after), f"{month}: what is to be built anew")
                if after is None:
                    break
            else:
                return


def _compare_some(
    database: Database, month: Month, built: Sequence[VectorKind], chunker: str, after: UUID | None
) -> UUID | None:
    """Make pending what has to be built anew of the next documents of a month; return the last. None: that was all."""
    with database.connection() as connection:
        compared = documents.next_by_id(connection, month, _COMPARED_DOCUMENTS, _COMPARED_CHUNKS, after)
        document_chunks.reopen_incomplete(connection, month, compared, built)
        documents.reopen_cut_otherwise(connection, month, compared, chunker)
        last = compared[-1] if compared else None
        built_kinds.store(connection, month, built, chunker, last)
    return last


def embed_claimed(
    pipeline: Pipeline, report: Callable[[EmbeddedBatch], None], month: Month, kinds: Sequence[VectorKind]
) -> int | None:
    """What a worker does of a month's vectors step: claim batches beside others until nothing is pending."""
    embedder = ChunkEmbedder(pipeline, month, kinds, report, shared=True)
    first = embedder.claim()
    return embedder.run(first) if first else None


class _VectorStep:
    """One call of `index_vectors`.

    Chunks are embedded and written in this process, or by workers of Ray. As batches are written, but not more often
    than once a second, documents go live: what documents share, such as the counts of common words, is then written less
    often. The next run begins with those that a failed run left.
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
        any_pending = self._index()
        with pipeline.stopwatch.stage("switch"):
            self._switch(None)
            self._rewrite_moved()
            with self._database.connection() as connection:
                document_chunks.mark_failed_documents(connection, month)
                if pipeline.is_live:
                    # Somebody can have deleted documents since this run stored them.
                    consistency_repairs.refetch_items(connection, month)
            schema.analyze_if_rewritten(self._database, month, result.written)
        if any_pending or result.moved:
            with pipeline.stopwatch.stage("settle"):
                pipeline.collections.settle(result.written + result.moved)
        return result

    def _index(self) -> bool:
        """Embed and write what is pending. Return whether anything was."""
        if self._is_for_workers():
            self._pipeline.ensure_collections(self._month)
            with self._released_on_error():
                self._index_with_workers()
            return True
        embedder = ChunkEmbedder(self._pipeline, self._month, self._kinds, self._note)
        first = embedder.claim()
        if first:
            self._pipeline.ensure_collections(self._month)
            with self._released_on_error():
                self._result.embedding_tokens = embedder.run(first)
        return bool(first)

    @contextmanager
    def _released_on_error(self) -> Iterator[None]:
        try:
            yield
        except RagError:
            self._release()
            raise

    def _release(self) -> int:
        with self._database.connection() as connection:
            return document_chunks.release(connection, self._month)

    def _is_for_workers(self) -> bool:
        settings = self._pipeline.settings
        if settings.ray_address is None:
            return False
        with self._database.connection() as connection:
            least = settings.ray_from_chunks
            return document_chunks.pending_up_to(connection, self._month, self._kinds, least) >= least

    def _index_with_workers(self) -> None:
        from rag_pipeline.distributed.fleet import fleet

        self._release()  # what a killed run left: workers claim only what is pending
        with self._pipeline.stopwatch.stage("workers"), fleet(self._pipeline, f"{self._month} vectors") as workers:
            for member, batch in workers.run(embed_claimed, (self._month, self._kinds), self._is_left):
                member.done += len(batch.written)
                self._note(batch)
            self._result.workers = workers.reports()
            billed = [tokens for tokens in workers.returned if tokens is not None]
            self._result.embedding_tokens = sum(billed) if billed else None

    def _is_left(self) -> bool:
        """Release what workers had claimed that died; no worker is working. Return whether anything is pending."""
        self._release()
        with self._database.connection() as connection:
            return document_chunks.pending_up_to(connection, self._month, self._kinds, 1) > 0

    def _note(self, batch: EmbeddedBatch) -> None:
        """Count what became of a batch, and make documents live."""
        result = self._result
        with self._counting:
            result.embedded += batch.embedded
            result.reused += batch.reused
            result.failed += batch.failed
            result.written += len(batch.written)
            result.touched.add_documents(batch.documents)
            result.touched.add_written(batch.written)
            self._to_switch |= batch.documents
        self._pipeline.progress(f"{self._month} vectors", result.written)
        if time.monotonic() - self._switched_at > _SWITCH_SECONDS and self._switching.acquire(blocking=False):
            try:
                self._switch_written()
            finally:
                self._switching.release()

    def _switch_written(self) -> None:
        with self._counting:
            written, self._to_switch = list(self._to_switch), set()
        with self._pipeline.stopwatch.stage("switch"):
            self._switch(written)
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
        collections, month, milvus = self._pipeline.collections, self._month, self._pipeline.stores.milvus
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
                for part in rows.with_new_metadata(milvus, kind, generation.name, states):
                    with sole_writer(self._database, milvus, generation.name):
                        rows.upsert(milvus, generation.name, month, part)
            with self._database.connection() as connection:
                document_chunks.mark_positions_stored(connection, month, moved)
                vector_deletions.add_gone(connection, month, list(counts.items()))
            self._result.moved += len(moved)
            self._result.touched.add_written(states)
            self._result.touched.add_documents(chunk.document_id for chunk in moved)
        if self._result.moved:
            self._switch(None)
