"""A month's run: the steps of the write path, in their order.

This is the order that the asset graph in `defs/assets.py` draws. The command line runs that graph, so that its runs
show in the Dagster UI; programs, tests and the repair run the steps from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.stats import IngestStats
from rag_pipeline.indexing.verify import verify

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline


@dataclass
class MonthRun:
    """What running a month did."""

    stats: IngestStats = field(default_factory=IngestStats)
    unreachable: list[str] = field(default_factory=list)
    """Why sources could not be reached, one line each. Their items stay pending."""
    error: str | None = None
    """Why the run failed, on one line."""


def run_month(pipeline: Pipeline, month: Month) -> MonthRun:
    """Run all steps of a month under its lock, and compare the counts of both stores.

    The run has an `error` if expected, stored and searchable differ. Raises `StoreUnavailableError` if a store
    is down: what was done stays, and the next run resumes.
    """
    with pipeline.month_lock(month):
        run = run_steps(pipeline, month)
        for counts in verify(pipeline, month, pipeline.settings.vectors):
            if not counts.equal:
                run.error = (
                    f"{counts}: run again; if the counts still differ, something else writes to this collection"
                )
                break
    return run


def run_steps(pipeline: Pipeline, month: Month, *, fetch: bool = True) -> MonthRun:
    """Documents, chunks, vectors, deletions. The caller holds the month's lock.

    `fetch=False` leaves the sources alone: only what is stored is chunked and embedded.
    """
    run = MonthRun()
    if fetch:
        documents = ingest_documents(pipeline, month)
        run.stats.add(documents.counts())
        run.unreachable += documents.unreachable.values()
    run.stats.add(chunk_documents(pipeline, month).counts())
    run.stats.add(index_vectors(pipeline, month).counts())
    run.stats.add(deletion_counts(drain_deletions(pipeline)))
    return run
