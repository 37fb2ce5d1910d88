"""What a run changed in the collections, so that the checks at its end cost its change and not its month."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from rag_pipeline.months import Month

_MOST = 5000
"""Documents and chunks that are remembered: with about as many it is as fast to look at all."""


@dataclass
class TouchedChunks:
    """The chunks of a month whose vectors a run wrote or deleted, and the documents that it changed."""

    month: Month
    documents: set[UUID] = field(default_factory=set)
    written: set[UUID] = field(default_factory=set)
    deleted: dict[UUID, int] = field(default_factory=dict)
    """Chunk → its number of multi-vectors."""
    too_many: bool = False
    """Only some are remembered."""

    def add_documents(self, documents: Iterable[UUID]) -> None:
        """Remember documents whose chunks or statuses were changed."""
        self.documents.update(documents)
        self._limit()

    def add_written(self, chunks: Iterable[UUID]) -> None:
        """Remember chunks whose vectors were written."""
        self.written.update(chunks)
        self._limit()

    def add_deleted(self, chunks: Iterable[tuple[UUID, int]]) -> None:
        """Remember chunks whose vectors were deleted, with their numbers of multi-vectors."""
        self.deleted.update(chunks)
        self._limit()

    def _limit(self) -> None:
        if self.too_many or len(self.documents) + len(self.written) + len(self.deleted) > _MOST:
            self.too_many = True
            for remembered in (self.documents, self.written, self.deleted):
                remembered.clear()

    def __str__(self) -> str:
        return (
            f"documents changed: {len(self.documents)}, chunks written: {len(self.written)}, "
            f"deleted: {len(self.deleted)}"
        )
