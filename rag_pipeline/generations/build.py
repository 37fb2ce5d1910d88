"""Building a generation, a month at a time: its documents are copied, cut, embedded, written, counted and checked.

A month's run takes over what `generation_changes` lists, so it is the same one that fills a month, that continues after
a kill, and that follows an edit. Deletions reach every generation by the foreign key to the item. The live generation's
runs go on beside it: each has locks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.consistency.checks import CHECKS, check_month
from rag_pipeline.consistency.repair import repair
from rag_pipeline.errors import RagError, StoreUnavailableError, one_line
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.verify import VectorCounts, verify
from rag_pipeline.stores.postgres import built_kinds, documents, generation_tables, schema
from rag_pipeline.stores.postgres import generations as table

if TYPE_CHECKING:
    from rag_pipeline.consistency.findings import Finding
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.generations import GenerationRow

_COPIED_AT_ONCE = 500


@dataclass
class MonthBuilt:
    """What building a month did."""

    month: Month
    copied: int = 0
    """Documents that were taken over from the live generation: new ones, and changed ones."""
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""
    failed: int = 0
    """Chunks that cannot be embedded."""
    verified: Sequence[VectorCounts] = ()


BuildMonth = Callable[["Pipeline", "GenerationRow", "Month"], MonthBuilt]
"""Builds a month; raises a `RagError` if that fails."""


def pending_months(pipeline: Pipeline, row: GenerationRow) -> list[Month]:
    """Return the months that a generation has to build or to bring up to date, newest first.

    Newest first, because the newest documents are edited most: those that are built last are followed for the shortest
    time.
    """
    with pipeline.stores.database.connection() as connection:
        noted = set(table.noted(connection, row.id))
    with pipeline.beside(row) as other, other.stores.database.connection() as connection:
        return sorted(noted | set(documents.months_unfinished(connection)), reverse=True)


def build_month(pipeline: Pipeline, row: GenerationRow, month: Month) -> MonthBuilt:
    """Give a generation that is not live all that the live one has of a month.

    Raises a `RagError` if the month is not consistent afterwards, or the generation went live or was dropped meanwhile,
    and `StoreUnavailableError` if a store or the embedder is down: what was done stays, and the next run resumes.
    """
    built = MonthBuilt(month)
    with pipeline.beside(row) as other:
        other.generations_stay = pipeline.generations_stay
        with other.month_lock(month):
            built.copied = _take_over(pipeline, other, row, month)
            built.chunks = chunk_documents(other, month).added
            vectors = index_vectors(other, month)
            built.embedded, built.reused, built.failed = vectors.embedded, vectors.reused, len(vectors.failed)
            drain_deletions(other)
            built.verified = verify(other, month, other.vectors)
            with other.stores.database.connection() as connection:
                built_kinds.store(connection, month, other.vectors)
        wrong = [str(counts) for counts in built.verified if not counts.equal]
        wrong += [str(finding) for finding in errors_of(other, month)]
        if wrong:
            # Such as what somebody deleted by hand, or a Milvus that was lost: mended once, and then reported.
            repair(other, [month])
            built.verified = verify(other, month, other.vectors)
            wrong = [str(counts) for counts in built.verified if not counts.equal]
            wrong += [str(finding) for finding in errors_of(other, month)]
    if wrong:
        raise RagError(f"{row.name}, {month}: {'; '.join(wrong)}")
    return built


def errors_of(other: Pipeline, month: Month) -> list[Finding]:
    """Return what the checks find wrong with a month of a generation that is not live, without warnings."""
    return [
        finding
        for finding in check_month(other, month)
        if CHECKS[finding.check].severity == "error" and finding.caused_by is None
    ]


def _take_over(pipeline: Pipeline, other: Pipeline, row: GenerationRow, month: Month) -> int:
    """Copy the documents that are noted for a month; return their number."""
    with pipeline.stores.database.connection() as connection:
        tables = generation_tables.live_schema(connection)
    schema.ensure_months(other.stores.database, [month])
    copied = 0
    while True:
        with other.stores.database.connection() as connection:
            taken = table.take_noted(connection, row.id, month, _COPIED_AT_ONCE)
            if taken:
                documents.copy_from(connection, tables, month, taken)
        copied += len(taken)
        if len(taken) < _COPIED_AT_ONCE:
            return copied
        pipeline.progress(f"{row.name}, {month} documents", copied)


def take_over_all(pipeline: Pipeline, row: GenerationRow) -> int:
    """Copy all documents that are noted for a generation, to be cut and embedded later; return their number."""
    with pipeline.stores.database.connection() as connection:
        noted = table.noted(connection, row.id)
    with pipeline.beside(row) as other:
        return sum(_take_over(pipeline, other, row, month) for month in noted)


def build(
    pipeline: Pipeline,
    row: GenerationRow,
    only_months: Sequence[Month] = (),
    run: BuildMonth = build_month,
    on_month: Callable[[MonthBuilt], None] = lambda built: None,
) -> list[str]:
    """Build month after month until nothing is pending; return the errors of months that failed, one line each.

    Months that change meanwhile are brought up to date at the end. Raises `StoreUnavailableError` if a store or the
    embedder is down.
    """
    failed: dict[Month, str] = {}
    while True:
        pending = [
            month
            for month in pending_months(pipeline, row)
            if month not in failed and (not only_months or month in only_months)
        ]
        if not pending:
            return list(failed.values())
        pipeline.progress(f"{row.name}: months to build", len(pending))
        try:
            on_month(run(pipeline, row, pending[0]))
        except StoreUnavailableError:
            raise
        except RagError as error:
            failed[pending[0]] = one_line(error)
