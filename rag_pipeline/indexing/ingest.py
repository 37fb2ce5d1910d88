"""Ingest: scan the sources, then run every month with pending work; what `rag-pipeline ingest` does.

How a month is run is handed in: the command line runs the Dagster job, so that its runs show in the UI; tests and
programs may run the steps alone (`run_month`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError, StoreUnavailableError, one_line
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.retention import apply_retention
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.indexing.verify import verify
from rag_pipeline.stores.postgres import documents, source_items, sources, vector_deletions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline


@dataclass
class IngestResult:
    """What came of an ingest; the counts are in the pipeline's tally."""

    months: list[Month] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Sources that could not be scanned and months whose run failed, one line each; the others went on."""
    warnings: list[str] = field(default_factory=list)
    unconfigured: list[str] = field(default_factory=list)
    """Sources that are no longer in `sources.yaml`: their documents stay until `sources --remove`."""


def ingest(
    pipeline: Pipeline,
    *,
    only_sources: Sequence[str] = (),
    only_months: Sequence[Month] = (),
    confirm_deletions: bool = False,
    retry_failed: bool = False,
    run: Callable[[Pipeline, Month], None] | None = None,
) -> IngestResult:
    """Bring the index to what the sources hold.

    Raises `StoreUnavailableError` where a store is down, and `DimensionMismatchError` or a `RagError` where the
    collections hold another embedder's vectors; what was done stays, and the next ingest goes on from there.
    """
    run = run or run_month
    result = IngestResult()
    configured = [pipeline.source(name) for name in only_sources] or list(pipeline.sources.values())
    with pipeline.stores.database.connection() as connection:
        result.unconfigured = sources.deactivate_unconfigured(
            connection, [(source.type, source.name) for source in pipeline.sources.values()]
        )
        if retry_failed:
            source_items.retry_failed(connection, list(only_sources) or None)
            documents.retry_failed(connection)
    for config in configured:
        try:
            scanned = scan_source(pipeline, config, confirm_deletions=confirm_deletions)
        except StoreUnavailableError:
            raise
        except RagError as error:
            result.errors.append(one_line(error))
            continue
        result.warnings += [
            f"source {config.name}: {problem}; nothing there counts as gone" for problem in scanned.problems
        ]
    result.warnings += apply_retention(pipeline).busy
    with pipeline.stores.database.connection() as connection:
        pending = documents.months_with_work(connection)
    months = [month for month in pending if not only_months or month in only_months]
    if months:
        pipeline.collections.check()
    for number, month in enumerate(months):
        pipeline.progress("months", number, len(months))
        try:
            run(pipeline, month)
        except StoreUnavailableError:
            raise
        except RagError as error:
            result.errors.append(f"{month}: {one_line(error)}")
        result.months.append(month)
    result.errors += [problem for problem in pipeline.tally.problems if problem not in result.errors]
    with pipeline.stores.database.connection() as connection:
        waiting = vector_deletions.backlog(connection)
    if waiting:
        drain_deletions(pipeline)
    return result


def run_month(pipeline: Pipeline, month: Month) -> None:
    """A month's whole run: documents, chunks, vectors, deletions, and the counts compared.

    Raises a `RagError` where expected, stored and searchable are not the same.
    """
    with pipeline.month_lock(month):
        ingest_documents(pipeline, month)
        chunk_documents(pipeline, month)
        index_vectors(pipeline, month)
        drain_deletions(pipeline)
        for counts in verify(pipeline, month, pipeline.settings.vectors):
            if not counts.equal:
                raise RagError(f"{counts}: run again; if it stays so, something else writes to this collection")
