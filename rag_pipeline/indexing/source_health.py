"""The health of a source: whether its last scan reached all of it, and which of its items cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.sources.naming import without_name
from rag_pipeline.stores.postgres import source_items, sources
from rag_pipeline.stores.postgres.statuses import SyncStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig

_SAMPLE = 20
_NAMED = 3


@dataclass(frozen=True)
class SourceHealth:
    """What the last scan of a source found wrong with it, and when it was."""

    error: str | None = None
    """Why the last scan failed."""
    unlisted: Sequence[str] = ()
    """Up to 20 paths that could not be listed, each with its reason."""
    unlisted_count: int = 0
    unreadable: Sequence[tuple[str, str]] = ()
    """Up to 20 quarantined items, as (source_id, reason)."""
    unreadable_count: int = 0
    last_scan: datetime | None = None
    next_scan: datetime | None = None

    @property
    def reachable(self) -> bool:
        """Whether the last scan listed all of the source."""
        return self.error is None and not self.unlisted_count

    @property
    def healthy(self) -> bool:
        """Whether the source is reachable and all of its items are readable."""
        return self.reachable and not self.unreadable_count

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.last_scan is None:
            return "not scanned yet"
        found = []
        if self.unlisted_count:
            found.append(f"paths that cannot be listed: {self.unlisted_count} ({_named(self.unlisted)})")
        if self.unreadable_count:
            items = [f"{source_id}: {reason}" for source_id, reason in self.unreadable]
            found.append(f"items that cannot be read: {self.unreadable_count} ({_named(items)})")
        return "; ".join(found) or "everything was listed, and all items can be read"


def source_health(pipeline: Pipeline, config: SourceConfig) -> SourceHealth:
    """Return the health of a source, as its last scan and the runs since have left it."""
    with pipeline.stores.database.connection() as connection:
        state = sources.state_of(connection, config.type, config.name)
        if state is None:
            return SourceHealth()
        count, sample = source_items.quarantined(connection, state.id, _SAMPLE)
    return SourceHealth(
        error=state.last_error if state.sync_status == SyncStatus.FAILED else None,
        unlisted=state.problems[:_SAMPLE],
        unlisted_count=len(state.problems),
        unreadable=[(source_id, without_name(reason, source_id)) for source_id, reason in sample],
        unreadable_count=count,
        last_scan=state.last_sync_at,
        next_scan=state.next_sync_at,
    )


def _named(items: Sequence[str]) -> str:
    return "; ".join(items[:_NAMED]) + (" …" if len(items) > _NAMED else "")
