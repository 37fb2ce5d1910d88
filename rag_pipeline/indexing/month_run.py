"""A month's run: the steps of the write path, in their order.

This is the order that the asset graph in `defs/assets.py` draws. The command line runs that graph, so that its runs
show in the Dagster UI; programs, tests and the repair run the steps from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.document_warnings import DocumentWarnings
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.stats import IngestStats
from rag_pipeline.indexing.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.indexing.verify import VectorCounts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline


@dataclass
class MonthRun:
    """What running a month did, or had done by the time that it failed."""

    stats: IngestStats = field(default_factory=IngestStats)
    unreachable: list[str] = field(default_factory=list)
    """Why sources could not be reached, one line each. Their items stay pending."""
    warnings: DocumentWarnings = field(default_factory=DocumentWarnings)
    """What was lost or guessed in documents that were stored."""
    verified: list[VectorCounts] = field(default_factory=list)
    """The counts of both stores after the last write of the run."""
    touched: TouchedChunks | None = None
    """What the run changed in the collections; None until it has."""
    embedding_tokens: int = 0
    """Tokens that an embedding server reported."""


@dataclass
class MonthRuns:
    """What became of several months that are run one after the other."""

    on_end: Callable[[Month, MonthRun], None] = lambda month, run: None
    """Called when a month has ended, in whatever way."""
    done: list[Month] = field(default_factory=list)
    failed: dict[Month, str] = field(default_factory=dict)
    """Why months failed, one line each."""

    def end(self, month: Month, run: MonthRun, error: str = "") -> None:
        """Note what a month did and, if it failed, why."""
        if error:
            self.failed[month] = error
        else:
            self.done.append(month)
        self.on_end(month, run)

    @property
    def ended(self) -> set[Month]:
        """The months that were run. The others are still to be run."""
        return {*self.done, *self.failed}


def run_month(pipeline: Pipeline, month: Month, run: MonthRun) -> None:
    """Run all steps of a month under its lock, and compare the counts of both stores. Adds what it does to `run`.

    Raises a `RagError` if expected, stored and searchable differ, and `StoreUnavailableError` if a store is down: what
    was done stays, and the next run resumes.
    """
    with pipeline.month_lock(month):
        run_steps(pipeline, month, run)
        for counts in verify(pipeline, month, pipeline.vectors):
            if not counts.equal:
                raise RagError(
                    f"{counts}: run again; if the counts still differ, something else writes to this collection"
                )


def run_steps(pipeline: Pipeline, month: Month, run: MonthRun, *, fetch: bool = True) -> None:
    """Documents, chunks, vectors, deletions. Adds what each does to `run`. The caller holds the month's lock.

    `fetch=False` leaves the sources alone: only what is stored is chunked and embedded.
    """
    if fetch:
        documents = ingest_documents(pipeline, month)
        run.stats.add(documents.counts())
        run.unreachable += documents.unreachable.values()
        run.warnings.merge(documents.warnings)
    run.stats.add(chunk_documents(pipeline, month).counts())
    vectors = index_vectors(pipeline, month)
    run.stats.add(vectors.counts())
    run.embedding_tokens += vectors.embedding_tokens or 0
    run.stats.add(deletion_counts(drain_deletions(pipeline)))
