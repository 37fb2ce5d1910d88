"""Verify: at the end of a month's run, expected = stored = searchable, counted in both stores.

Expected is what PostgreSQL says the collections hold, stored is what the month's partition holds, searchable is what
queries find through the alias and the rows' dates. Vectors of pending deletions may still be stored; they are counted
separately.
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
    """One collection's vectors of one month, counted three times."""

    kind: VectorKind
    month: Month
    expected: int
    stored: int
    searchable: int
    pending_deletions: int
    """Chunks in the outbox, of all months: their vectors may still be stored."""

    @property
    def equal(self) -> bool:
        """Whether all three counts are the same."""
        return self.expected == self.stored == self.searchable

    def as_dict(self) -> dict[str, int]:
        """The counts by name, as the Dagster UI shows them."""
        return {
            "expected": self.expected,
            "stored": self.stored,
            "searchable": self.searchable,
            "pending_deletions": self.pending_deletions,
        }

    def __str__(self) -> str:
        pending = f" ({self.pending_deletions} pending deletions)" if self.pending_deletions else ""
        return (
            f"{self.kind}_collection, {self.month}: {self.expected} vectors expected, {self.stored} stored, "
            f"{self.searchable} searchable{pending}"
        )


def verify(pipeline: Pipeline, month: Month, kinds: Sequence[VectorKind]) -> list[VectorCounts]:
    """Count these collections' vectors of a month, in the order of the kinds."""
    with pipeline.stopwatch.stage("verify"):
        with pipeline.stores.database.connection() as connection:
            expected = document_chunks.expected_vectors(connection, month)
            pending = vector_deletions.backlog(connection)
        stored, searchable = pipeline.collections.stored, pipeline.collections.searchable
        return [
            VectorCounts(kind, month, expected[kind], stored(kind, month), searchable(kind, month), pending)
            for kind in kinds
        ]
