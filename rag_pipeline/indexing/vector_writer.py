"""VectorMappingService: a batch of chunks and its vectors is written to both PostgreSQL and Milvus, or to neither.

There is no transaction across the two stores, so a batch is a saga (Garcia-Molina and Salem, "Sagas", SIGMOD 1987):

1. the chunks are this run's: it holds the month, and workers of one run mark theirs `processing`;
2. their rows are written to the collections, side by side;
3. their vectors' ids are written back, and they are `completed`. Chunks that somebody deleted meanwhile go into the
   outbox of deletions instead.

Each step registers its compensation. On a failure the compensations run in reverse order. If a store refuses the data,
the batch is retried in halves, so that one bad chunk fails alone. Any other failure is no chunk's fault: it is raised,
and the chunks stay pending.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import DataRefusedError, LockLostError, StoreUnavailableError, one_line
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import document_chunks, vector_deletions
from rag_pipeline.stores.postgres.statuses import EmbeddingStatus
from rag_pipeline.stores.vector_ids import row_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from uuid import UUID

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.collections import Collections
    from rag_pipeline.stores.postgres.database import Database
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

_log = logging.getLogger(__name__)

_ABOUT_DATA = (DataRefusedError, psycopg.DataError, psycopg.IntegrityError)
"""The errors of both stores that are about the rows they were given."""


class VectorMappingService:
    """Saves chunks with their vectors, in one month, for the given kinds of vectors; from several threads.

    `built` are all the kinds that a complete chunk has; `embedder` is the fingerprint of what made the vectors. What a
    chunk's status was, claimed by a worker or pending, it stays if its batch fails.
    """

    def __init__(
        self,
        database: Database,
        collections: Collections,
        month: Month,
        kinds: Sequence[VectorKind],
        *,
        built: Sequence[VectorKind],
        embedder: str,
    ) -> None:
        self._database = database
        self._collections = collections
        self._month = month
        self._kinds = tuple(kinds)
        self._built = tuple(built)
        self._embedder = embedder
        self._pool = ThreadPoolExecutor(len(self._kinds), thread_name_prefix="collection")
        self._writing = {kind: Lock() for kind in self._kinds}

    def __enter__(self) -> VectorMappingService:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def save(
        self, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]
    ) -> list[tuple[ChunkToEmbed, str]]:
        """Write a batch. Return the chunks whose data a store refuses and that are now `failed`, each with its error.

        Raises `StoreUnavailableError` if a store is down or refuses every chunk alike: then no chunk is to blame, and
        the next run resumes.
        """
        refused = self._save_in_halves(batch, vectors)
        reasons = {one_line(error) for _, error in refused}
        if len(batch) > 1 and len(refused) == len(batch) and len(reasons) == 1:
            raise StoreUnavailableError(
                f"each of {len(batch)} chunks of {self._month} is refused alike, so no chunk is to blame: "
                f"{reasons.pop()}; nothing was lost, correct the store and run again"
            )
        return [(chunk, self.fail(chunk, error)) for chunk, error in refused]

    def _save_in_halves(
        self, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]
    ) -> list[tuple[ChunkToEmbed, Exception]]:
        """Write a batch, in halves if its data is refused. Return the chunks that are refused alone, with the error."""
        if not batch:
            return []
        try:
            self._save(batch, vectors)
        except _ABOUT_DATA as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            half = len(batch) // 2
            return [
                *self._save_in_halves(batch[:half], vectors[:half]),
                *self._save_in_halves(batch[half:], vectors[half:]),
            ]
        return []

    def fail(self, chunk: ChunkToEmbed, error: BaseException) -> str:
        """Mark one chunk as failed with this error. Return the error as it was stored."""
        reason = one_line(error)
        _log.warning("chunk %s of %s, position %s: %s", chunk.id, chunk.source_id, chunk.position, reason)
        with self._database.connection() as connection:
            document_chunks.set_status(connection, self._month, [chunk.id], EmbeddingStatus.FAILED, reason)
        return reason

    def _save(self, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]) -> None:
        multi_counts = [0 if v.multi is None else len(v.multi) for v in vectors]
        with Saga(f"batch of {len(batch)} chunks of {self._month}") as saga:
            counted = [(chunk.id, count) for chunk, count in zip(batch, multi_counts, strict=True)]
            # In case that Milvus has their vectors and refuses to delete them: no later batch has these chunks.
            saga.on_failure("note the vectors of deleted chunks", partial(self._note_gone, counted))
            if "multi" in self._kinds:
                with self._database.connection() as connection:
                    document_chunks.announce_multi(connection, self._month, counted)
            for kind in self._kinds:
                # What was stored before is written again unchanged, and stays: a live chunk can be found by it.
                new = [
                    row_id
                    for chunk, count in zip(batch, multi_counts, strict=True)
                    if kind not in chunk.stored
                    for row_id in row_ids(kind, chunk.id, count)
                ]
                saga.on_failure(f"delete their new {kind} vectors", partial(self._delete, kind, new))
            written = [self._pool.submit(self._write, kind, batch, vectors) for kind in self._kinds]
            # All of them have to end before anything is compensated.
            errors = [error for future in written if (error := future.exception())]
            if errors:
                raise errors[0]
            with self._database.connection() as connection:
                document_chunks.map_vectors(
                    connection,
                    self._month,
                    batch,
                    kinds=self._kinds,
                    built=self._built,
                    embedder=self._embedder,
                    multi_counts=multi_counts,
                )
                vector_deletions.add_gone(connection, self._month, counted)

    def _write(self, kind: VectorKind, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]) -> None:
        collection = self._collections.generations[kind]
        made = [
            row
            for chunk, of_chunk in zip(batch, vectors, strict=True)
            for row in rows.make_rows(kind, chunk, of_chunk, has_source=collection.has_source)
        ]
        with self._sole_writer(kind):
            rows.upsert(self._collections.milvus, collection.name, self._month, made)

    def _delete(self, kind: VectorKind, ids: Sequence[str]) -> None:
        with self._sole_writer(kind):
            rows.delete(self._collections.milvus, self._collections.generations[kind].name, ids)

    @contextmanager
    def _sole_writer(self, kind: VectorKind) -> Iterator[None]:
        """Hold a collection's write lock. Threads of this process wait for each other without its pauses."""
        name = self._collections.generations[kind].name
        with self._writing[kind], sole_writer(self._database, self._collections.milvus, name):
            yield

    def _note_gone(self, counted: Sequence[tuple[UUID, int]]) -> None:
        with self._database.connection() as connection:
            vector_deletions.add_gone(connection, self._month, counted)


class Saga:
    """A series of steps, each with its compensation. A context manager: an error inside runs the compensations, unless
    the lock on what was written is lost.

    They run newest first, and the error is raised again. A compensation that itself fails is logged, and the others
    still run: the first error is the one raised.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._compensations: list[tuple[str, Callable[[], object]]] = []

    def on_failure(self, what: str, compensation: Callable[[], object]) -> None:
        """Register what undoes a step. Do so before the step: one that fails half-way has to be undone too."""
        self._compensations.append((what, compensation))

    def __enter__(self) -> Saga:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What a run wrote that has lost its month can belong to another run by now.
        if error is None or isinstance(error, LockLostError):
            return
        for what, compensation in reversed(self._compensations):
            try:
                compensation()
            except Exception as failure:
                # The next run finds what this leaves: rows marked `processing`, written again under the same ids.
                _log.warning("%s: could not %s: %s", self._name, what, one_line(failure))


def name_of(chunk: ChunkToEmbed) -> str:
    """Return what errors call a chunk."""
    return f"chunk {chunk.id} of {chunk.source_id}, position {chunk.position}"
