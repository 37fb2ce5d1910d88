"""Verify: at the end of a month's run, expected = stored = searchable, counted in both stores.

Expected is what PostgreSQL says the collections hold, stored is what the month's partition holds, searchable is what
queries find through the alias and the rows' dates. Vectors whose deletion is pending in the outbox and that are still
stored belong to the expected ones: they are looked up by key, so that they hide no other difference. Chunks can be
deleted and the outbox drained while the counts are taken, so they are taken again before they count as different.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline.stores.postgres import consistency_queries, document_chunks, vector_deletions
from rag_pipeline.stores.vector_ids import row_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_PAUSES_SECONDS = (0.2, 0.5, 1.0)
"""Before each further look at counts that differ."""
_DELETIONS_PER_LOOKUP = 500


@dataclass(frozen=True)
class VectorCounts:
    """One collection's vectors of one month, counted three times."""

    kind: VectorKind
    month: Month
    expected: int
    stored: int
    searchable: int
    pending_deletions: int
    """Vectors that are still stored and whose deletion is pending."""
    looked_up: int | None = None
    """How many were searched for; None: all of the month. The others count as searchable where they are stored."""

    @property
    def equal(self) -> bool:
        """Whether all three counts are the same, apart from the pending deletions."""
        return self.expected + self.pending_deletions == self.stored == self.searchable

    def as_dict(self) -> dict[str, int]:
        """The counts by name, as the Dagster UI shows them."""
        return {
            "expected": self.expected,
            "stored": self.stored,
            "searchable": self.searchable,
            "pending_deletions": self.pending_deletions,
        }

    def __str__(self) -> str:
        pending = f" (deletions pending: {self.pending_deletions})" if self.pending_deletions else ""
        return (
            f"{self.kind}_collection, {self.month}: {self.expected} vectors expected, {self.stored} stored, "
            f"{self.searchable} searchable{pending}"
        )


def verify(
    pipeline: Pipeline, month: Month, kinds: Sequence[VectorKind], touched: TouchedChunks | None = None
) -> list[VectorCounts]:
    """Count these collections' vectors of a month, in the order of the kinds. Counts that differ are taken again.

    With `touched`, only what a run wrote is searched for: the others were found before. Finding all takes time that
    grows with the month.
    """
    if touched and touched.too_many:
        touched = None
    with pipeline.stopwatch.stage("verify"):
        expected = _expected(pipeline, month)  # One look at the month for the first counts of all kinds.
        return [_settled(pipeline, month, kind, touched, expected) for kind in kinds]


def _expected(pipeline: Pipeline, month: Month) -> dict[str, int]:
    with pipeline.stores.database.connection() as connection:
        return document_chunks.expected_vectors(connection, month)


def _settled(
    pipeline: Pipeline, month: Month, kind: VectorKind, touched: TouchedChunks | None, expected: dict[str, int]
) -> VectorCounts:
    counts = _count(pipeline, month, kind, touched, expected[kind])
    for pause in _PAUSES_SECONDS:
        if counts.equal:
            break
        time.sleep(pause)
        counts = _count(pipeline, month, kind, touched, _expected(pipeline, month)[kind])
    return counts


def _count(
    pipeline: Pipeline, month: Month, kind: VectorKind, touched: TouchedChunks | None, expected: int
) -> VectorCounts:
    stored = pipeline.collections.stored(kind, month)
    looked_up = None
    if touched:
        looked_up, found = _look_up(pipeline, month, kind, touched)
        searchable = stored - (looked_up - found)
    else:
        searchable = pipeline.collections.searchable(kind, month)
    pending = _still_stored(pipeline, month, kind) if stored and searchable else 0
    return VectorCounts(kind, month, expected, stored, searchable, pending, looked_up)


def _look_up(pipeline: Pipeline, month: Month, kind: VectorKind, touched: TouchedChunks) -> tuple[int, int]:
    """Return how many vectors the run wrote that are still expected, and how many of them queries find."""
    with pipeline.stores.database.connection() as connection:
        written = consistency_queries.chunks_named(connection, month, kind, sorted(touched.written))
    keys = [key for chunk, state in written.items() if state.has_id for key in row_ids(kind, chunk, state.vectors)]
    return len(keys), pipeline.collections.searchable_among(kind, month, keys)


def _still_stored(pipeline: Pipeline, month: Month, kind: VectorKind) -> int:
    name = pipeline.collections.generations[kind].name
    found, after = 0, None
    while True:
        with pipeline.stores.database.connection() as connection:
            part = vector_deletions.of_month(connection, month, _DELETIONS_PER_LOOKUP, after)
        if not part:
            return found
        keys = {key for one in part for key in row_ids(kind, one.chunk_id, one.multi_vector_count)}
        found += len(key_ranges.present(pipeline.stores.milvus, name, month, sorted(keys)))
        after = part[-1].chunk_id
