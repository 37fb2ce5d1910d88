"""Building a generation, a month at a time: its documents are copied, cut, embedded, written, counted and checked.

A month's run takes over what `generation_changes` lists, so it is the same one that fills a month, that continues after
a kill, and that follows an edit. Deletions reach every generation by the foreign key to the item. The live generation's
runs go on beside it: each has locks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rag_pipeline.consistency.checker import Consistency
from rag_pipeline.consistency.checks import check_month
from rag_pipeline.consistency.repair import repair
from rag_pipeline.errors import RagError, StoreUnavailableError, one_line
from rag_pipeline.generations.lost import lost_months
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest import retry_failed_documents
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.stats import IngestStats
from rag_pipeline.indexing.verify import verify
from rag_pipeline.stores.postgres import built_kinds, documents, generation_tables, index_epochs, schema
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline.stores.postgres.deadlocks import despite_deadlocks

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.generations import GenerationRow

_COPIED_AT_ONCE = 500
_RETRIES = 1000


@dataclass
class Built:
    """What building a generation did, or had done by the time that it failed."""

    stats: IngestStats = field(default_factory=IngestStats)
    """`documents` are those that were taken over from the live generation: new ones, and changed ones."""
    months: list[Month] = field(default_factory=list)
    """Those that were run."""
    errors: list[str] = field(default_factory=list)
    """Months whose run failed, one line each; the others went on."""


BuildMonth = Callable[["Pipeline", "GenerationRow", "Month", MonthRun], None]
"""Builds a month and adds what it does to the `MonthRun`; raises a `RagError` if that fails."""


def pending_months(pipeline: Pipeline, row: GenerationRow) -> list[Month]:
    """Return the months that a generation has to build or to bring up to date, newest first.

    Newest first: searches look for the newest most often, so they are what a comparison before the switch needs.
    """
    return sorted(pending_work(pipeline, row), reverse=True)


def pending_work(pipeline: Pipeline, row: GenerationRow) -> dict[Month, str]:
    """Return the months that a generation has to build or to bring up to date, each with a digest of what is to be done.

    What is due for a retry becomes pending here, as in the live generation.
    """
    _note_everything(pipeline, row)
    with pipeline.stores.database.connection() as connection:
        noted = table.noted(connection, row.id)
    with pipeline.beside(row) as other, other.stores.database.connection() as connection:
        table.hold(connection, row)
        documents.retry_due(connection, _RETRIES)
        months = {*noted, *documents.months_unfinished(connection)}
        return {
            month: f"{noted.get(month, 0)} {documents.work_digest(connection, month)}" for month in sorted(months)
        }


def _note_everything(pipeline: Pipeline, row: GenerationRow) -> None:
    """Note all documents from before a generation was begun, month by month, and create its months; once."""
    database = pipeline.stores.database
    with database.connection() as connection:
        now = table.of_id(connection, row.id)
    if now is None or now.is_noted:
        return
    months = schema.existing_months(database)
    for number, month in enumerate(months):
        pipeline.progress(f"{row.name}: noting documents, months", number, len(months))
        with database.connection() as connection:
            table.note_month(connection, row.id, month)
    with pipeline.beside(row) as other:
        schema.ensure_months(other.stores.database, months)
    with database.connection() as connection:
        table.set_noted(connection, row.id)


def build_month(pipeline: Pipeline, row: GenerationRow, month: Month, run: MonthRun) -> None:
    """Give a generation that is not live all that the live one has of a month. Adds what it does to `run`.

    Raises a `RagError` if the month is not consistent afterwards, or the generation went live or was dropped meanwhile,
    and `StoreUnavailableError` if a store or the embedder is down: what was done stays, and the next run resumes.
    """
    with pipeline.beside(row) as other:
        other.generations_stay = pipeline.generations_stay
        with other.month_lock(month):
            run.stats.add({"documents": _take_over(pipeline, other, row, month)})
            # Each step can be repeated, and does what is left: a deletion of the live generation's can end it.
            run.stats.add(
                despite_deadlocks(partial(chunk_documents, other, month), f"{row.name}, {month}").counts()
            )
            vectors = despite_deadlocks(partial(index_vectors, other, month), f"{row.name}, {month}")
            run.stats.add(vectors.counts())
            run.embedding_tokens += vectors.embedding_tokens or 0
            run.stats.add(deletion_counts(drain_deletions(other)))
            run.verified = verify(other, month, other.vectors)
            with other.stores.database.connection() as connection:
                built_kinds.store(connection, month, other.vectors, other.generation.chunker)
        if wrong := _wrong(other, month, run):
            # Such as what somebody deleted by hand, or a Milvus that was lost: repaired once, and then reported.
            done = repair(other, [month])
            run.stats.add({"embedded": done.embedded, "reused": done.reused})
            run.verified = verify(other, month, other.vectors)
            wrong = _wrong(other, month, run)
    if wrong:
        raise RagError(f"{row.name}, {month}: {'; '.join(wrong)}")


def _wrong(other: Pipeline, month: Month, run: MonthRun) -> list[str]:
    """What the counts of a month's vectors and the checks find wrong with it, without warnings."""
    found = Consistency()
    found.add(check_month(other, month))
    return [str(counts) for counts in run.verified if not counts.equal] + [str(error) for error in found.errors]


def _take_over(pipeline: Pipeline, other: Pipeline, row: GenerationRow, month: Month) -> int:
    """Copy the documents that are noted for a month; return their number."""
    _note_everything(pipeline, row)
    with pipeline.stores.database.connection() as connection:
        tables = generation_tables.live_schema(connection)
    schema.ensure_months(other.stores.database, [month])

    def take_some() -> int:
        with other.stores.database.connection() as connection:
            table.hold(connection, row)
            taken = table.take_noted(connection, row.id, month, _COPIED_AT_ONCE)
            if taken:
                documents.copy_from(connection, tables, month, taken)
                index_epochs.advance(connection, month)  # Titles and tags are seen at once, should it go live.
        return len(taken)

    copied = 0
    while True:
        taken = despite_deadlocks(take_some, f"{row.name}, {month}: documents to take over")
        copied += taken
        if taken < _COPIED_AT_ONCE:
            return copied
        pipeline.progress(f"{row.name}, {month} documents", copied)


def restore_collections(pipeline: Pipeline, row: GenerationRow) -> list[Month]:
    """Create the collections of a generation that Milvus has lost; return the months whose vectors it has lost.

    To build these restores them: from `embedding_cache`, or by embedding.
    """
    with pipeline.beside(row) as other:
        lost = lost_months(other)
        if lost:
            other.collections.ensure()
    return lost


def missing_documents(pipeline: Pipeline, row: GenerationRow) -> int:
    """Return how many documents a generation has to take over, to cut or to embed."""
    _note_everything(pipeline, row)
    with pipeline.stores.database.connection() as connection:
        noted = table.noted(connection, row.id)
    with pipeline.beside(row) as other, other.stores.database.connection() as connection:
        table.hold(connection, row)
        return sum(noted.values()) + documents.unfinished(connection)


def retry_failed(pipeline: Pipeline, row: GenerationRow) -> int:
    """Make what a generation could not embed pending; return the number of documents."""
    with pipeline.beside(row) as other:
        return retry_failed_documents(other, hold=lambda connection: table.hold(connection, row))


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
    result: Built | None = None,
    lost: Sequence[Month] = (),
) -> Built:
    """Build month after month until nothing is pending, or nothing of `only_months`; and months that have `lost` vectors.

    Months that change meanwhile are brought up to date at the end. What is done is added to `result` at once; the same
    object is returned. Raises `StoreUnavailableError` if a store or the embedder is down.
    """
    result = Built() if result is None else result
    failed: set[Month] = set()
    left = set(lost)
    while True:
        pending = [
            month
            for month in sorted({*pending_months(pipeline, row), *left}, reverse=True)
            if month not in failed and (not only_months or month in only_months)
        ]
        if not pending:
            return result
        month, done = pending[0], MonthRun()
        pipeline.progress(f"{row.name}: months to build", len(pending))
        try:
            run(pipeline, row, month, done)
        except StoreUnavailableError:
            raise
        except RagError as error:
            failed.add(month)
            result.errors.append(one_line(error))
        finally:
            left.discard(month)
            result.stats.add(done.stats.as_dict())
        if month not in result.months:
            result.months.append(month)
