"""VectorMappingService: a batch of chunks and its vectors become one state of PostgreSQL and Milvus, or none.

The saga of a batch: the chunks are `processing` in PostgreSQL; their rows are written to the collections, side by
side; their ids are written back and they are `completed`. On a failure the compensations run in reverse, and the
batch is tried again in halves, so that one bad chunk fails alone.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from rag_pipeline.errors import DimensionMismatchError, StoreUnavailableError, one_line
from rag_pipeline.indexing.saga import Saga
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import document_chunks
from rag_pipeline.stores.vector_ids import row_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.collections import Collections
    from rag_pipeline.stores.postgres.database import Database
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

_log = logging.getLogger(__name__)


class VectorMappingService:
    """Saves chunks with their vectors, in one month, for the given kinds of vectors."""

    def __init__(
        self,
        database: Database,
        collections: Collections,
        month: Month,
        kinds: Sequence[VectorKind],
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

    def __enter__(self) -> VectorMappingService:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def save(
        self, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]
    ) -> list[tuple[ChunkToEmbed, str]]:
        """Write a batch; the chunks that could not be written, each with its error, marked `failed`.

        Raises `StoreUnavailableError` where a store is down: then no chunk is to blame, and the next run goes on.
        """
        if not batch:
            return []
        try:
            self._save(batch, vectors)
        except (StoreUnavailableError, DimensionMismatchError):
            raise
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], self.fail(batch[0], error))]
            half = len(batch) // 2
            return self.save(batch[:half], vectors[:half]) + self.save(batch[half:], vectors[half:])
        return []

    def fail(self, chunk: ChunkToEmbed, error: BaseException) -> str:
        """Mark one chunk as failed with this error; the error as stored."""
        reason = one_line(error)
        _log.warning("chunk %s of %s, position %s: %s", chunk.id, chunk.source_id, chunk.position, reason)
        with self._database.connection() as connection:
            document_chunks.set_status(connection, self._month, [chunk.id], "failed", reason)
        return reason

    def _save(self, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]) -> None:
        multi_counts = [0 if v.multi is None else len(v.multi) for v in vectors]
        with Saga(f"batch of {len(batch)} chunks of {self._month}") as saga:
            saga.on_failure("set the chunks back to pending", partial(self._set_back, batch))
            if "multi" in self._kinds:
                with self._database.connection() as connection:
                    document_chunks.announce_multi(
                        connection, self._month, [(c.id, n) for c, n in zip(batch, multi_counts, strict=True)]
                    )
            for kind in self._kinds:
                ids = [
                    key
                    for chunk, count in zip(batch, multi_counts, strict=True)
                    for key in row_ids(kind, chunk.id, count)
                ]
                saga.on_failure(f"delete their {kind} vectors", partial(self._delete, kind, ids))
            written = [self._pool.submit(self._write, kind, batch, vectors) for kind in self._kinds]
            # All have to come to an end before anything is compensated.
            errors = [error for future in written if (error := future.exception())]
            if errors:
                raise errors[0]
            with self._database.connection() as connection:
                document_chunks.map_vectors(
                    connection, self._month, batch, self._kinds, self._built, self._embedder, multi_counts
                )

    def _write(self, kind: VectorKind, batch: Sequence[ChunkToEmbed], vectors: Sequence[ChunkVectors]) -> None:
        name = self._collections.generations[kind].name
        made = [
            row
            for chunk, of_chunk in zip(batch, vectors, strict=True)
            for row in rows.make_rows(kind, chunk, of_chunk)
        ]
        with sole_writer(self._database, self._collections.milvus, name):
            rows.upsert(self._collections.milvus, name, self._month, made)

    def _delete(self, kind: VectorKind, ids: Sequence[str]) -> None:
        rows.delete(self._collections.milvus, self._collections.generations[kind].name, ids)

    def _set_back(self, batch: Sequence[ChunkToEmbed]) -> None:
        with self._database.connection() as connection:
            document_chunks.set_status(connection, self._month, [chunk.id for chunk in batch], "pending")


def name_of(chunk: ChunkToEmbed) -> str:
    """What errors call a chunk."""
    return f"chunk {chunk.id} of {chunk.source_id}, position {chunk.position}"
