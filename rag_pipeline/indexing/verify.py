"""Verify: at the end of a month's run, expected = stored = searchable, counted in both stores.

Expected is what PostgreSQL says the collections hold, stored is what the month's partition holds, searchable is what
queries find by the alias and the rows' dates. Waiting deletions may still be stored; they are told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import document_chunks, vector_deletions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind


@dataclass(frozen=True)
class VectorCounts:
    """One collection's counts of one month."""

    kind: VectorKind
    month: Month
    expected: int
    stored: int
    searchable: int
    waiting_deletions: int
    """Chunks in the outbox, of all months: their vectors may still be stored."""

    @property
    def equal(self) -> bool:
        return self.expected == self.stored == self.searchable

    def __str__(self) -> str:
        waiting = f" ({self.waiting_deletions} deletions are waiting)" if self.waiting_deletions else ""
        return (
            f"{self.kind}_collection, {self.month}: {self.expected} vectors expected, {self.stored} stored, "
            f"{self.searchable} searchable{waiting}"
        )


def verify(pipeline: Pipeline, month: Month, kinds: Sequence[VectorKind]) -> list[VectorCounts]:
    """Count these collections' vectors of a month, in the order of the kinds."""
    with pipeline.tally.stage("verify"):
        with pipeline.stores.database.connection() as connection:
            expected = document_chunks.expected_vectors(connection, month)
            waiting = vector_deletions.backlog(connection)
        stored, searchable = pipeline.collections.stored, pipeline.collections.searchable
        return [
            VectorCounts(kind, month, expected[kind], stored(kind, month), searchable(kind, month), waiting)
            for kind in kinds
        ]
