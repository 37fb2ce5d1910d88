"""Vectors: a month's pending chunks are embedded in one pass and saved, and finished documents switch versions.

While a batch is being written, the next one is being embedded.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.errors import DimensionMismatchError, StoreUnavailableError
from rag_pipeline.indexing.vector_writer import VectorMappingService, name_of
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import document_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

_SWITCH_BATCH = 200
_RESTATE_BATCH = 500


@dataclass
class VectorsResult:
    """What a month's vectors step did."""

    written: int = 0
    """Chunks whose vectors were written."""
    embedded: int = 0
    reused: int = 0
    restated: int = 0
    documents_switched: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(chunk, reason)"""


def index_vectors(pipeline: Pipeline, month: Month, kinds: Sequence[VectorKind] | None = None) -> VectorsResult:
    """Write the vectors that a month's chunks lack, of these kinds (default: all that are built).

    A chunk is complete with all the kinds of `RAG_VECTORS`; its document becomes searchable with its last chunk.
    Raises `StoreUnavailableError` where a store goes away: what was written stays, the next run goes on from there.
    """
    built = pipeline.settings.vectors
    wanted = tuple(kind for kind in built if kinds is None or kind in kinds)
    result = VectorsResult()
    with pipeline.stores.database.connection() as connection:
        first = document_chunks.claim(connection, month, wanted, pipeline.settings.batch_size, None)
    if first:
        pipeline.collections.ensure(month)
        _index(pipeline, month, wanted, first, result)
    with pipeline.tally.stage("switch"):
        _switch(pipeline, month, None, result)
        _restate(pipeline, month, result)
        with pipeline.stores.database.connection() as connection:
            document_chunks.mark_failed_documents(connection, month)
    if first or result.restated:
        with pipeline.tally.stage("settle"):
            pipeline.collections.flush()
    tally = pipeline.tally
    tally.restated += result.restated
    tally.failed_chunks += len(result.failed)
    return result


def _index(
    pipeline: Pipeline,
    month: Month,
    kinds: tuple[VectorKind, ...],
    batch: list[ChunkToEmbed],
    result: VectorsResult,
) -> None:
    service = VectorMappingService(
        pipeline.stores.database,
        pipeline.collections,
        month,
        kinds,
        pipeline.settings.vectors,
        pipeline.embedder.fingerprint,
    )
    with service, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        writing: Future[None] | None = None
        while batch:
            embedded = _embed(pipeline, service, kinds, batch, result)
            if writing:
                writing.result()
            writing = writer.submit(_write, pipeline, service, month, embedded, result)
            after = (batch[-1].document_id, batch[-1].position)
            with pipeline.stores.database.connection() as connection:
                batch = document_chunks.claim(connection, month, kinds, pipeline.settings.batch_size, after)
        if writing:
            writing.result()


def _embed(
    pipeline: Pipeline,
    service: VectorMappingService,
    kinds: tuple[VectorKind, ...],
    batch: Sequence[ChunkToEmbed],
    result: VectorsResult,
) -> list[tuple[ChunkToEmbed, ChunkVectors]]:
    """The batch with its vectors; a chunk that cannot be embedded is found by halving, and marked failed."""
    from rag_pipeline.embedding.cache import encode_cached

    cache = pipeline.cache  # A malformed URL fails the run, not the chunk.
    try:
        with pipeline.tally.stage("embed"):
            vectors, computed, reused = encode_cached(
                pipeline.embedder, cache, [chunk.text for chunk in batch], kinds
            )
    except (StoreUnavailableError, DimensionMismatchError):
        raise
    except Exception as error:
        if len(batch) == 1:
            result.failed.append((name_of(batch[0]), service.fail(batch[0], error)))
            return []
        half = len(batch) // 2
        return _embed(pipeline, service, kinds, batch[:half], result) + _embed(
            pipeline, service, kinds, batch[half:], result
        )
    result.embedded += computed
    result.reused += reused
    pipeline.tally.embedded += computed
    pipeline.tally.reused += reused
    return list(zip(batch, vectors, strict=True))


def _write(
    pipeline: Pipeline,
    service: VectorMappingService,
    month: Month,
    embedded: Sequence[tuple[ChunkToEmbed, ChunkVectors]],
    result: VectorsResult,
) -> None:
    with pipeline.tally.stage("write"):
        failed = service.save([chunk for chunk, _ in embedded], [vectors for _, vectors in embedded])
    result.failed += [(name_of(chunk), reason) for chunk, reason in failed]
    result.written += len(embedded) - len(failed)
    with pipeline.tally.stage("switch"):
        _switch(pipeline, month, list({chunk.document_id for chunk, _ in embedded}), result)
    pipeline.progress(f"{month} vectors", result.written)


def _switch(pipeline: Pipeline, month: Month, documents: list[UUID] | None, result: VectorsResult) -> None:
    """Make complete new versions live, each document in one transaction with others, a bounded number at a time."""
    while True:
        with pipeline.stores.database.connection() as connection:
            switched = document_chunks.switch(connection, month, documents, _SWITCH_BATCH)
        result.documents_switched += len(switched)
        if len(switched) < _SWITCH_BATCH:
            return


def _restate(pipeline: Pipeline, month: Month, result: VectorsResult) -> None:
    """Chunks that only moved get their new position in the collections, from the vectors that are stored."""
    database = pipeline.stores.database
    while True:
        with database.connection() as connection:
            moved = document_chunks.to_restate(connection, month, _RESTATE_BATCH)
            counts = document_chunks.multi_counts(connection, month, [chunk.id for chunk in moved])
        if not moved:
            break
        pipeline.collections.ensure(month)
        states = {chunk.id: (chunk, counts[chunk.id]) for chunk in moved}
        for kind, generation in pipeline.collections.generations.items():
            rows.update_metadata(pipeline.stores.milvus, kind, generation.name, month, states)
        with database.connection() as connection:
            document_chunks.mark_restated(connection, month, moved)
        result.restated += len(moved)
    if result.restated:
        _switch(pipeline, month, None, result)
