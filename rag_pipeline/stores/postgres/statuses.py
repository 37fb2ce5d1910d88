"""The states of an item, a document, a chunk and a source's scan: their names, how one follows another, and the retry rule.

Every status that is written to PostgreSQL or compared with one comes from here: Python takes the members, SQL takes
them through `.sql` and `one_of`. They are interpolated as literals and not passed as parameters, because a partial
index serves a query only where the planner sees the value. `docs/design.md` draws the same transitions.
"""

from __future__ import annotations

from collections.abc import Mapping
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


Transition = tuple[Status | None, Status | None]
"""A row's status before and after a statement; None: there was no row, or there is none any more."""

TRANSITIONS: Mapping[type[Status], frozenset[Transition]] = {
    ItemState: frozenset(
        {
            # source_items.merge: a scan compares what it sees with what was ingested.
            (None, ItemState.PENDING),  # new
            (None, ItemState.RETIRED),  # new, in a month older than the retention
            (ItemState.INGESTED, ItemState.PENDING),  # changed; also consistency_repairs.fetch_again
            (ItemState.INGESTED, ItemState.RETIRED),  # changed, and too old; also retiring_months.retire_items
            (ItemState.PENDING, ItemState.INGESTED),  # changed back; also source_items.record
            (ItemState.PENDING, ItemState.RETIRED),  # too old before its run; also retiring_months.retire_items
            (ItemState.FAILED, ItemState.PENDING),  # changed; also source_items.retry_failed and retry_due
            (ItemState.FAILED, ItemState.RETIRED),  # changed, and too old; also retiring_months.retire_items
            (ItemState.GONE, ItemState.PENDING),  # seen again, changed or never ingested
            (ItemState.GONE, ItemState.INGESTED),  # seen again, unchanged
            (ItemState.GONE, ItemState.RETIRED),  # seen again, changed, and too old
            # source_items.record: a run could not read it.
            (ItemState.PENDING, ItemState.FAILED),
            # source_items.mark_gone, at the end of a complete pass; sources.abandon.
            (ItemState.PENDING, ItemState.GONE),
            (ItemState.INGESTED, ItemState.GONE),
            (ItemState.FAILED, ItemState.GONE),
            (ItemState.RETIRED, ItemState.GONE),
            # source_items.delete_gone, with its document and chunks.
            (ItemState.GONE, None),
            # retiring_months.restore_items: its month is kept again.
            (ItemState.RETIRED, ItemState.PENDING),
        }
    ),
    ProcessingStatus: frozenset(
        {
            # documents.upsert: parsed; consistency_repairs.mend_statuses: its chunks are not as many as it says.
            (None, ProcessingStatus.PROCESSING),
            (ProcessingStatus.COMPLETED, ProcessingStatus.PROCESSING),
            (ProcessingStatus.FAILED, ProcessingStatus.PROCESSING),
            # documents.mark_chunked
            (ProcessingStatus.PROCESSING, ProcessingStatus.COMPLETED),
            # documents.set_aside: its newest bytes cannot be read.
            (ProcessingStatus.PROCESSING, ProcessingStatus.FAILED),
            (ProcessingStatus.COMPLETED, ProcessingStatus.FAILED),
            # documents.restore: its source has the stored version again.
            (ProcessingStatus.FAILED, ProcessingStatus.COMPLETED),
            # source_items.delete_gone; retiring_months.delete_documents.
            (ProcessingStatus.PROCESSING, None),
            (ProcessingStatus.COMPLETED, None),
            (ProcessingStatus.FAILED, None),
        }
    ),
    IndexingStatus: frozenset(
        {
            # documents.upsert: parsed; consistency_repairs.mend_statuses: its chunks are not as many as it says.
            (None, IndexingStatus.PENDING),
            (IndexingStatus.INDEXING, IndexingStatus.PENDING),
            (IndexingStatus.COMPLETED, IndexingStatus.PENDING),
            (IndexingStatus.FAILED, IndexingStatus.PENDING),
            # documents.mark_chunked
            (IndexingStatus.PENDING, IndexingStatus.INDEXING),
            # document_chunks.switch; from pending where newer bytes could not be read before they were chunked.
            (IndexingStatus.INDEXING, IndexingStatus.COMPLETED),
            (IndexingStatus.PENDING, IndexingStatus.COMPLETED),
            # document_chunks.mark_failed_documents; from pending as above.
            (IndexingStatus.INDEXING, IndexingStatus.FAILED),
            (IndexingStatus.PENDING, IndexingStatus.FAILED),
            # documents.retry_failed and retry_due; consistency_repairs.mend_statuses: no chunk of it has failed.
            (IndexingStatus.FAILED, IndexingStatus.INDEXING),
            # consistency_repairs.mend_statuses and forget_vectors: its chunks are not complete.
            (IndexingStatus.COMPLETED, IndexingStatus.INDEXING),
            # source_items.delete_gone; retiring_months.delete_documents.
            (IndexingStatus.PENDING, None),
            (IndexingStatus.INDEXING, None),
            (IndexingStatus.COMPLETED, None),
            (IndexingStatus.FAILED, None),
        }
    ),
    EmbeddingStatus: frozenset(
        {
            # document_chunks.store_next_version
            (None, EmbeddingStatus.PENDING),
            # document_chunks.claim
            (EmbeddingStatus.PENDING, EmbeddingStatus.PROCESSING),
            # document_chunks.map_vectors; to pending while a kind is still missing; from pending when a batch that
            # was set back is written in halves, and by consistency_repairs.mend_statuses.
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.COMPLETED),
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.PENDING),
            (EmbeddingStatus.PENDING, EmbeddingStatus.COMPLETED),
            # document_chunks.set_status: it cannot be embedded; from pending: it cannot be written.
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.FAILED),
            (EmbeddingStatus.PENDING, EmbeddingStatus.FAILED),
            # documents.retry_failed and retry_due; store_next_version, where an edit keeps the chunk.
            (EmbeddingStatus.FAILED, EmbeddingStatus.PENDING),
            # consistency_repairs.forget_vectors: a vector is not stored.
            (EmbeddingStatus.COMPLETED, EmbeddingStatus.PENDING),
            # consistency_repairs.mend_statuses: it has the ids of all its vectors.
            (EmbeddingStatus.FAILED, EmbeddingStatus.COMPLETED),
            # document_chunks.store_next_version and switch, when an edit drops it; deleted with its document.
            (EmbeddingStatus.PENDING, None),
            (EmbeddingStatus.PROCESSING, None),
            (EmbeddingStatus.COMPLETED, None),
            (EmbeddingStatus.FAILED, None),
        }
    ),
    SyncStatus: frozenset(
        {
            # sources.register
            (None, SyncStatus.PENDING),
            # sources.begin_or_resume_pass
            (SyncStatus.PENDING, SyncStatus.RUNNING),
            (SyncStatus.COMPLETED, SyncStatus.RUNNING),
            (SyncStatus.FAILED, SyncStatus.RUNNING),
            # sources.finish_pass
            (SyncStatus.RUNNING, SyncStatus.COMPLETED),
            # sources.fail_sync
            (SyncStatus.RUNNING, SyncStatus.FAILED),
        }
    ),
}
"""Every change of a status that the write path and the repair make, each with the function that makes it.

A statement that leaves a status as it was is not listed. `ProcessingStatus.PENDING` is the column's default and is
never written. A test drives all of them on a database and finds no other.
"""
