"""What was lost or guessed in documents that were parsed: how many there are, and the newest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag_pipeline.documents.parsing.dates import parse_date, two_meanings

if TYPE_CHECKING:
    from rag_pipeline.months import Month

_KEPT = 20
_EXAMPLES = 3


@dataclass
class DocumentWarnings:
    """The documents with warnings of a run. Only the newest are kept, however many there are."""

    count: int = 0
    newest: list[tuple[datetime, str, str]] = field(default_factory=list)
    """(created_at, source_id, warnings), the newest first."""

    def add(self, documents: Sequence[tuple[datetime, str, str]]) -> None:
        """Add documents."""
        self.count += len(documents)
        self.newest = sorted([*self.newest, *documents], reverse=True)[:_KEPT]

    def merge(self, other: DocumentWarnings) -> None:
        """Add those of another month."""
        self.add(other.newest)
        self.count += other.count - len(other.newest)

    def as_json(self) -> list[dict[str, str]]:
        """The newest, as `rag-pipeline ingest --json` prints them."""
        return [{"source_id": source_id, "warning": warning} for _, source_id, warning in self.newest]

    def lines(self) -> list[str]:
        """The count with a few examples, as `rag-pipeline ingest` prints it; empty if there are none."""
        if not self.count:
            return []
        examples = [f"{source_id}: {warning}" for _, source_id, warning in self.newest[:_EXAMPLES]]
        others = self.count - len(examples)
        return [
            f"documents with warnings: {self.count}",
            *examples,
            *([f"and {others} more documents with warnings"] if others else []),
        ]


def date_warning(stated: str | None, used: datetime, first: Month) -> str | None:
    """Return what is wrong with the date that a document states, if another one is used; None if nothing is."""
    if stated is None:
        return None
    moment = parse_date(stated)
    instead = f"{used.astimezone(UTC):%Y-%m-%d} is used"
    if moment is None and (meanings := two_meanings(stated)):
        first_meaning, second_meaning = (f"{meaning:%Y-%m-%d}" for meaning in meanings)
        return f"the date {stated!r} has two meanings, {first_meaning} and {second_meaning}: {instead}"
    if moment is None:
        return f"the date {stated!r} is not a date that can be read: {instead}"
    if moment == used.astimezone(UTC):
        return None
    if moment > datetime.now(UTC):
        return f"the date {stated!r} is in the future: {instead}"
    if moment < first.start:
        return f"the date {stated!r} is before RAG_FIRST_MONTH ({first}): {instead}"
    return None
