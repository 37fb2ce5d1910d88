"""The states of an item, a document, a chunk and a source's scan: their names, how one follows another, and the retry rule.

Every status that is written to PostgreSQL or compared with one comes from here: Python takes the members, SQL takes
them through `.sql` and `one_of`. They are interpolated as literals and not passed as parameters, because a partial
index serves a query only where the planner sees the value. `docs/design.md` draws the same transitions.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """A status column's value."""

    @property
    def sql(self) -> str:
        """The value as an SQL literal. Members are lower-case words, so nothing needs escaping."""
        return f"'{self.value}'"


class ItemState(Status):
    """`source_items.state`: what is known of something that a source holds, or held."""

    PENDING = "pending"
    """New, changed or to be retried: the next run of its month fetches it."""
    INGESTED = "ingested"
    """Its document holds what the source held when it was last fetched."""
    FAILED = "failed"
    """It could not be read. Quarantined with its reason, until it changes or its retry is due."""
    GONE = "gone"
    """A complete scan did not see it: the next run of its month deletes it with its document."""
    RETIRED = "retired"
    """Older than the months that are kept: neither ingested nor deleted."""


class ProcessingStatus(Status):
    """`documents.processing_status`: how far a document's bytes have come on their way to chunks."""

    PENDING = "pending"
    """Stored, not cut yet."""
    PROCESSING = "processing"
    """Stored anew: its chunks are to be made. A run that died leaves it so, and the next one goes on."""
    COMPLETED = "completed"
    """Its chunks are those of its content."""
    FAILED = "failed"
    """Its newest bytes cannot be read: quarantined, with the version before them still in place."""


class IndexingStatus(Status):
    """`documents.indexing_status`: how far a document's chunks have come on their way to being searchable."""

    PENDING = "pending"
    """Its chunks are not those of its content yet."""
    INDEXING = "indexing"
    """Its chunks lack vectors, or rows in Milvus that have to follow."""
    COMPLETED = "completed"
    """All of its chunks are live, with every kind of vector that is built."""
    FAILED = "failed"
    """A chunk cannot be embedded: quarantined, with the version before it still searchable."""


class EmbeddingStatus(Status):
    """`document_chunks.embedding_status`: whether a chunk has its vectors."""

    PENDING = "pending"
    """It lacks at least one vector of a kind that is built."""
    PROCESSING = "processing"
    """Claimed by a run. One that died leaves it so, and the next one takes it up again."""
    COMPLETED = "completed"
    """All of its vectors are stored, and their ids are on its row."""
    FAILED = "failed"
    """It cannot be embedded or written; the reason is on its row."""


class SyncStatus(Status):
    """`sources.sync_status`: how the newest scan of a source went."""

    PENDING = "pending"
    """Never scanned."""
    RUNNING = "running"
    """A pass over it is under way, perhaps spread over many ticks."""
    COMPLETED = "completed"
    FAILED = "failed"
    """The source could not be listed; what was stored before stays."""


ITEM_WORK = (ItemState.PENDING, ItemState.GONE)
"""Items that the next run of their month works off."""
ITEM_KEPT = (ItemState.PENDING, ItemState.INGESTED, ItemState.FAILED)
"""Items that have, or are to have, a document."""
TO_CHUNK = (ProcessingStatus.PENDING, ProcessingStatus.PROCESSING)
"""Documents whose chunks are to be made."""
TO_INDEX = (IndexingStatus.PENDING, IndexingStatus.INDEXING)
"""Documents that are not searchable in their newest version yet."""
TO_EMBED = (EmbeddingStatus.PENDING, EmbeddingStatus.PROCESSING)
"""Chunks whose vectors are to be made."""

RETRY_AT = "now() + least(interval '1 day' * power(2, least(failures, 10)), interval '30 days')"
"""When work that failed is tried again, as SQL in an UPDATE that also counts `failures` up: a day after the first
failure, then twice as long, up to 30 days. What broke it may heal by itself, and must not keep every run busy till then."""


def one_of(*statuses: Status) -> str:
    """The statuses as the right side of an SQL `IN`: `('pending', 'gone')`."""
    return f"({', '.join(status.sql for status in statuses)})"
