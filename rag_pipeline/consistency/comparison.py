"""A month's chunks and the keys in one collection, compared in both directions: all, range by range, or some.

Memory is bounded by a range; time grows with the month, or with the number of chunks. A run can be writing meanwhile,
so a difference is read again, in an order in which the write path cannot have produced it. A vector is in Milvus before
its chunk is completed or has its id, and is deleted after its chunk is: a missing vector is read again from Milvus
first, then from PostgreSQL. An orphaned vector's chunk is in PostgreSQL before the vector exists and in the outbox
afterwards: it is read again in the opposite order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.stores.milvus import key_ranges as milvus_keys
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.partitions import partitions_of_no_month
from rag_pipeline.stores.postgres import consistency_queries, document_chunks
from rag_pipeline.stores.postgres.statuses import TO_EMBED, EmbeddingStatus
from rag_pipeline.stores.vector_ids import parse, row_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.key_ranges import Range
    from rag_pipeline.stores.postgres.consistency_queries import ChunkState
    from rag_pipeline.stores.postgres.database import Connection

_PAUSE_SECONDS = 0.3
_CHUNKS_AT_ONCE = 500


@dataclass
class Differences:
    """The differences within one range of chunk ids."""

    missing: list[UUID] = field(default_factory=list)
    """Chunks with a missing vector, although they are completed or have its id."""
    orphaned: dict[str, str] = field(default_factory=dict)
    """Keys that belong to no chunk, with the reason."""
    misplaced: dict[str, Month] = field(default_factory=dict)
    """The orphaned keys whose chunk is in another month, with that month."""


def differences(pipeline: Pipeline, month: Month, kind: VectorKind) -> Iterator[Differences]:
    """Compare a month's chunks with its partition of a collection, which must be loaded if it exists."""
    return _Comparison(pipeline, month, kind).run()


def differences_among(
    pipeline: Pipeline, month: Month, kind: VectorKind, touched: TouchedChunks
) -> Iterator[Differences]:
    """Compare only the chunks that a run touched, which must not be too many to be remembered."""
    return _Comparison(pipeline, month, kind).run_among(touched)


def vectors_of_no_month(pipeline: Pipeline, kind: VectorKind) -> Iterator[tuple[str, set[str]]]:
    """Yield (partition, keys) of what is stored in partitions of no month, range by range.

    The write path never writes there, so all of it is orphaned. The collection must be loaded if it exists.
    """
    collections, milvus = pipeline.collections, pipeline.stores.milvus
    name = collections.generations[kind].name
    with milvus.client() as client:
        if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
            return
    for partition in partitions_of_no_month(milvus, name):
        if stored := collections.rows_in(kind, partition):
            for within in milvus_keys.ranges(stored):
                for _, keys in milvus_keys.read(milvus, name, partition, within):
                    yield partition, keys


class _Comparison:
    def __init__(self, pipeline: Pipeline, month: Month, kind: VectorKind) -> None:
        self._database = pipeline.stores.database
        self._milvus = pipeline.stores.milvus
        self._collections = pipeline.collections
        self._name = pipeline.collections.generations[kind].name
        self._month = month
        self._kind = kind

    def run(self) -> Iterator[Differences]:
        with self._database.connection() as connection:
            expected = document_chunks.expected_vectors(connection, self._month)[self._kind]
        stored = self._collections.stored(self._kind, self._month)
        partition = self._month.milvus_partition
        for within in milvus_keys.ranges(max(expected, stored)):
            if milvus_keys.has_partition(self._milvus, self._name, self._month):
                # Chunks before keys: a vector is never older than its chunk.
                with self._database.connection() as connection:
                    rows = self._chunks(connection, within)
                    leaving = consistency_queries.pending_deletions(connection, within.first, within.after)
                for part, keys in milvus_keys.read(self._milvus, self._name, partition, within):
                    yield self._compare({i: rows[i] for i in rows if _inside(part, i)}, leaving, keys)
            else:
                with self._database.connection() as connection:
                    rows = self._chunks(connection, within)
                yield self._compare(rows, set(), set())

    def run_among(self, touched: TouchedChunks) -> Iterator[Differences]:
        written, deleted = sorted(touched.written), sorted(touched.deleted.items())
        for start in range(0, max(len(written), len(deleted)), _CHUNKS_AT_ONCE):
            ids = written[start : start + _CHUNKS_AT_ONCE]
            gone = deleted[start : start + _CHUNKS_AT_ONCE]
            with self._database.connection() as connection:
                rows = consistency_queries.chunks_named(connection, self._month, self._kind, ids)
                leaving = consistency_queries.pending_deletions_among(connection, [*ids, *(i for i, _ in gone)])
            counted = [*((i, state.vectors) for i, state in rows.items()), *gone]
            yield self._compare(
                rows, leaving, self._present(key for i, n in counted for key in row_ids(self._kind, i, n))
            )

    def _chunks(self, connection: Connection, within: Range) -> dict[UUID, ChunkState]:
        return consistency_queries.chunks_within(connection, self._month, self._kind, within.first, within.after)

    def _compare(self, rows: dict[UUID, ChunkState], leaving: set[UUID], keys: set[str]) -> Differences:
        missing = self._without_vectors(rows, keys)
        orphaned = {key: why for key in keys if (why := self._why_orphaned(key, rows, leaving))}
        if missing or orphaned:
            time.sleep(_PAUSE_SECONDS)
        found = Differences(missing=self._still_missing(missing), orphaned=self._still_orphaned(orphaned))
        self._find_misplaced(found)
        return found

    def _without_vectors(self, rows: dict[UUID, ChunkState], keys: set[str]) -> list[UUID]:
        return [
            chunk
            for chunk, state in rows.items()
            if (state.has_id or state.status == EmbeddingStatus.COMPLETED)
            and not (state.vectors and keys.issuperset(row_ids(self._kind, chunk, state.vectors)))
        ]

    def _why_orphaned(self, key: str, rows: dict[UUID, ChunkState], leaving: set[UUID]) -> str | None:
        parsed = parse(key)
        if parsed is None or parsed.kind != self._kind:
            return "not a key of this collection"
        chunk, _, number = parsed
        state = rows.get(chunk)
        if state is None:
            return None if chunk in leaving else "no such chunk"
        if state.status in TO_EMBED:
            # A run is probably writing it; if that run is killed before it updates the row, the next one rewrites it.
            return None
        if state.status == EmbeddingStatus.FAILED and not state.has_id:
            return "its chunk could not be embedded"
        if number is not None and number >= state.vectors:
            return f"its chunk has {state.vectors} vectors"
        return None

    def _still_missing(self, suspects: list[UUID]) -> list[UUID]:
        if not suspects:
            return []
        with self._database.connection() as connection:
            states = consistency_queries.chunks_named(connection, self._month, self._kind, suspects)
        there = self._present(
            [key for i, state in states.items() for key in row_ids(self._kind, i, state.vectors)]
        )
        with self._database.connection() as connection:
            states = consistency_queries.chunks_named(connection, self._month, self._kind, suspects)
        return sorted(self._without_vectors(states, there))

    def _still_orphaned(self, suspects: dict[str, str]) -> dict[str, str]:
        if not suspects:
            return {}
        ids = chunks_of(suspects)
        with self._database.connection() as connection:
            states = consistency_queries.chunks_named(connection, self._month, self._kind, list(ids))
            leaving = consistency_queries.pending_deletions_among(connection, ids)
        there = self._present(suspects)
        return {key: why for key in sorted(there) if (why := self._why_orphaned(key, states, leaving))}

    def _find_misplaced(self, found: Differences) -> None:
        ids = chunks_of(found.orphaned)
        if not ids:
            return
        with self._database.connection() as connection:
            months = consistency_queries.months_of(connection, list(ids))
        for key in list(found.orphaned):
            month = next((months[chunk] for chunk in chunks_of([key]) if chunk in months), self._month)
            if month != self._month:
                found.misplaced[key] = month
                found.orphaned[key] = f"in the wrong partition: its chunk is in {month}"

    def _present(self, keys: Iterable[str]) -> set[str]:
        if not milvus_keys.has_partition(self._milvus, self._name, self._month):
            return set()
        return milvus_keys.present(self._milvus, self._name, self._month, list(keys))


def chunks_of(keys: Iterable[str]) -> set[UUID]:
    """Return the chunks of these keys; keys in an unknown format are skipped."""
    return {parsed.chunk for key in keys if (parsed := parse(key))}


def _inside(part: Range, chunk: UUID) -> bool:
    return part.low <= chunk.int < part.high
