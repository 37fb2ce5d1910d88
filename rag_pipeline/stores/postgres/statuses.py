"""The states of items, documents, chunks and scans: their names, how they follow one another, and when to retry.

Every status that is written to PostgreSQL or compared with one comes from here: Python takes the members, SQL
takes them through `.sql` and `one_of`. They are interpolated as literals and not passed as parameters, because a
partial index serves a query only if the planner sees the value. `docs/design.md` draws the same transitions.
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
    """`source_items.state`: what is known about an item that a source holds or held."""

    PENDING = "pending"
    """New, changed or to be retried: the next run of its month fetches it."""
    INGESTED = "ingested"
    """Its document holds what the source held when it was last fetched."""
    FAILED = "failed"
    """It could not be read. Quarantined with its reason, until it changes or its retry is due."""
    GONE = "gone"
    """A complete scan did not see it: the next run of its month deletes it with its document."""
    EXPIRED = "expired"
    """In a month older than the retention: neither ingested nor deleted."""


class ProcessingStatus(Status):
    """`documents.processing_status`: from a document's bytes to its chunks."""

    PENDING = "pending"
    """The column's default; the write path never writes it."""
    PROCESSING = "processing"
    """Stored, new or changed, and not chunked yet. If its run is killed, the next one resumes it."""
    COMPLETED = "completed"
    """Its chunks match its content."""
    FAILED = "failed"
    """Its newest bytes cannot be read: quarantined, with its previous version, which is chunked, still in place."""


class IndexingStatus(Status):
    """`documents.indexing_status`: from a document's chunks to its being searchable."""

    PENDING = "pending"
    """Its chunks do not match its content yet."""
    INDEXING = "indexing"
    """Vectors of its chunks are missing, or their rows in Milvus hold an old position or language."""
    COMPLETED = "completed"
    """All its chunks are live, with every kind of vector in `RAG_VECTORS`."""
    FAILED = "failed"
    """A chunk cannot be embedded or written: quarantined, with its previous version still searchable."""


class EmbeddingStatus(Status):
    """`document_chunks.embedding_status`: whether a chunk has its vectors."""

    PENDING = "pending"
    """At least one of its vectors is missing."""
    PROCESSING = "processing"
    """Claimed by one of the workers of a run, beside others. If that is killed, the next run releases it."""
    COMPLETED = "completed"
    """All of its vectors are stored, and their ids are on its row."""
    FAILED = "failed"
    """It cannot be embedded or written; the reason is on its row."""


class SyncStatus(Status):
    """`sources.sync_status`: how the newest scan of a source went."""

    PENDING = "pending"
    """Never scanned."""
    RUNNING = "running"
    """A pass over it is in progress, perhaps spread over many ticks."""
    COMPLETED = "completed"
    FAILED = "failed"
    """The source could not be listed; what was stored before stays."""


ITEM_WORK = (ItemState.PENDING, ItemState.GONE)
"""Items that the next run of their month processes."""
ITEM_KEPT = (ItemState.PENDING, ItemState.INGESTED, ItemState.FAILED)
"""Items that have a document, or will have one."""
TO_CHUNK = (ProcessingStatus.PENDING, ProcessingStatus.PROCESSING)
"""Documents to be chunked."""
TO_INDEX = (IndexingStatus.PENDING, IndexingStatus.INDEXING)
"""Documents whose newest version is not searchable yet."""
TO_EMBED = (EmbeddingStatus.PENDING, EmbeddingStatus.PROCESSING)
"""Chunks to be embedded."""

RETRY_AT = "now() + least(interval '1 day' * power(2, least(failures, 10)), interval '30 days')"
"""When failed work is retried, as SQL for an UPDATE that also increments `failures`: a day after the first
failure, then twice as long each time, up to 30 days. The cause can go away by itself, and until then it must not keep
every run busy."""


def one_of(*statuses: Status) -> str:
    """Return the statuses as the right side of an SQL `IN`: `('pending', 'gone')`."""
    return f"({', '.join(status.sql for status in statuses)})"


Transition = tuple[Status | None, Status | None]
"""A row's status before and after a statement; None: no row."""

TRANSITIONS: Mapping[type[Status], frozenset[Transition]] = {
    ItemState: frozenset(
        {
            # source_items.merge: a scan compares what it sees with what was ingested.
            (None, ItemState.PENDING),  # new
            (None, ItemState.EXPIRED),  # new, in a month older than the retention
            (ItemState.INGESTED, ItemState.PENDING),  # changed; also consistency_repairs.refetch_items
            (ItemState.INGESTED, ItemState.EXPIRED),  # changed, and too old; also expiring_months.expire_items
            (ItemState.PENDING, ItemState.INGESTED),  # changed back; also source_items.record
            (ItemState.PENDING, ItemState.EXPIRED),  # too old before its run; also expiring_months.expire_items
            (ItemState.FAILED, ItemState.PENDING),  # changed; also source_items.retry_failed and retry_due
            (ItemState.FAILED, ItemState.EXPIRED),  # changed, and too old; also expiring_months.expire_items
            (ItemState.GONE, ItemState.PENDING),  # seen again, changed or never ingested
            (ItemState.GONE, ItemState.INGESTED),  # seen again, unchanged
            (ItemState.GONE, ItemState.EXPIRED),  # seen again, changed, and too old
            # source_items.record: a run could not read it.
            (ItemState.PENDING, ItemState.FAILED),
            # source_items.mark_gone, at the end of a complete pass; sources.remove.
            (ItemState.PENDING, ItemState.GONE),
            (ItemState.INGESTED, ItemState.GONE),
            (ItemState.FAILED, ItemState.GONE),
            (ItemState.EXPIRED, ItemState.GONE),
            # source_items.delete_gone, with its document and chunks.
            (ItemState.GONE, None),
            # expiring_months.restore_items: its month is kept again.
            (ItemState.EXPIRED, ItemState.PENDING),
        }
    ),
    ProcessingStatus: frozenset(
        {
            # documents.upsert: parsed; consistency_repairs.repair_statuses: its chunks are not as many as it says;
            # documents.reopen_cut_otherwise, and restore of one that was quarantined meanwhile.
            (None, ProcessingStatus.PROCESSING),
            (ProcessingStatus.COMPLETED, ProcessingStatus.PROCESSING),
            (ProcessingStatus.FAILED, ProcessingStatus.PROCESSING),
            # documents.mark_chunked
            (ProcessingStatus.PROCESSING, ProcessingStatus.COMPLETED),
            # documents.quarantine: its newest bytes cannot be read, and it is not waiting to be chunked.
            (ProcessingStatus.COMPLETED, ProcessingStatus.FAILED),
            # documents.restore: its source has the stored version again.
            (ProcessingStatus.FAILED, ProcessingStatus.COMPLETED),
            # source_items.delete_gone; expiring_months.delete_documents.
            (ProcessingStatus.PROCESSING, None),
            (ProcessingStatus.COMPLETED, None),
            (ProcessingStatus.FAILED, None),
        }
    ),
    IndexingStatus: frozenset(
        {
            # documents.upsert: parsed; consistency_repairs.repair_statuses: its chunks are not as many as it says.
            (None, IndexingStatus.PENDING),
            (IndexingStatus.INDEXING, IndexingStatus.PENDING),
            (IndexingStatus.COMPLETED, IndexingStatus.PENDING),
            (IndexingStatus.FAILED, IndexingStatus.PENDING),
            # documents.mark_chunked
            (IndexingStatus.PENDING, IndexingStatus.INDEXING),
            # document_chunks.switch
            (IndexingStatus.INDEXING, IndexingStatus.COMPLETED),
            # document_chunks.mark_failed_documents
            (IndexingStatus.INDEXING, IndexingStatus.FAILED),
            # documents.retry_failed and retry_due; consistency_repairs.repair_statuses: no chunk of it has failed;
            # consistency_repairs.forget_vectors.
            (IndexingStatus.FAILED, IndexingStatus.INDEXING),
            # consistency_repairs.repair_statuses and forget_vectors: its chunks are not complete;
            # document_chunks.reopen_incomplete.
            (IndexingStatus.COMPLETED, IndexingStatus.INDEXING),
            # source_items.delete_gone; expiring_months.delete_documents.
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
            # document_chunks.claim, for one of several workers.
            (EmbeddingStatus.PENDING, EmbeddingStatus.PROCESSING),
            # document_chunks.map_vectors; to pending while a kind is still missing, or by document_chunks.release.
            # consistency_repairs.repair_statuses does all of it too.
            (EmbeddingStatus.PENDING, EmbeddingStatus.COMPLETED),
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.COMPLETED),
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.PENDING),
            # document_chunks.set_status: it cannot be embedded, or written.
            (EmbeddingStatus.PENDING, EmbeddingStatus.FAILED),
            (EmbeddingStatus.PROCESSING, EmbeddingStatus.FAILED),
            # documents.retry_failed and retry_due; store_next_version, where an edit keeps the chunk;
            # consistency_repairs.forget_vectors.
            (EmbeddingStatus.FAILED, EmbeddingStatus.PENDING),
            # consistency_repairs.forget_vectors: a vector is not stored; document_chunks.reopen_incomplete: a kind of
            # vectors was added.
            (EmbeddingStatus.COMPLETED, EmbeddingStatus.PENDING),
            # consistency_repairs.repair_statuses: it has the ids of all its vectors.
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
"""Every status change that the write path and the repair make, with the functions that make it.

Statements that leave a status unchanged are not listed. A test produces all of them on a database, and no other.
"""
