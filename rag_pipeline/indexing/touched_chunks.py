"""What a run changed in the collections, so that the checks at its end cost its change and not its month."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from rag_pipeline.months import Month

_MOST = 5000
"""Chunks that are remembered: about as many as are compared as fast by reading all keys."""


@dataclass
class TouchedChunks:
    """The chunks of a month whose vectors a run wrote or deleted."""

    month: Month
    written: set[UUID] = field(default_factory=set)
    deleted: dict[UUID, int] = field(default_factory=dict)
    """Chunk → its number of multi-vectors."""
    too_many: bool = False
    """Only some are remembered."""

    def add_written(self, chunks: Iterable[UUID]) -> None:
        """Remember chunks whose vectors were written."""
        self.written.update(chunks)
        self._limit()

    def add_deleted(self, chunks: Iterable[tuple[UUID, int]]) -> None:
        """Remember chunks whose vectors were deleted, with their numbers of multi-vectors."""
        self.deleted.update(chunks)
        self._limit()

    def _limit(self) -> None:
        if self.too_many or len(self.written) + len(self.deleted) > _MOST:
            self.too_many = True
            self.written.clear()
            self.deleted.clear()

    def __str__(self) -> str:
        return f"chunks written: {len(self.written)}, deleted: {len(self.deleted)}"
