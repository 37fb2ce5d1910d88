"""The checks of PostgreSQL's rows: orphaned chunks, contradictory counts and statuses, quarantined documents."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.findings import Finding, repair_command
from rag_pipeline.stores.postgres import consistency_queries, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.database import Connection, Database

CountAndSample = tuple[int, list[dict[str, Any]]]
"""The number of affected rows, and a sample of them."""

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class _Query:
    """A query, and the finding that its rows become."""

    check: str
    where: str
    month: Month | None
    problem: str
    count: Callable[[Connection], CountAndSample]
    what_to_do: str


def orphaned_chunks(pipeline: Pipeline, month: Month, _: Sequence[str]) -> list[Finding]:
    """Find chunks without a document: searches can find them and have nothing to show."""
    query = _Query(
        "orphaned_chunks",
        "document_chunks",
        month,
        "chunks without a document",
        partial(consistency_queries.orphaned_chunks, month=month),
        f"{repair_command(month)} deletes them and their vectors",
    )
    return _ask_twice(pipeline.stores.database, [query])


def quarantined_documents(pipeline: Pipeline, month: Month, _: Sequence[str]) -> list[Finding]:
    """Find documents that are quarantined because they, or one of their chunks, cannot be read or embedded."""
    query = _Query(
        "quarantined_documents",
        "documents",
        month,
        "quarantined documents",
        partial(consistency_queries.quarantined, month=month),
        "fix them at their source, or run `rag-pipeline ingest --retry-failed`",
    )
    return _ask_twice(pipeline.stores.database, [query])


def status_mismatches(pipeline: Pipeline, month: Month, assets: Sequence[str]) -> list[Finding]:
    """Find counts and statuses that contradict each other or the data, and work that is stuck."""
    return _mismatches(pipeline, month, assets, None)


def status_mismatches_among(
    pipeline: Pipeline, month: Month, assets: Sequence[str], touched: TouchedChunks
) -> list[Finding]:
    """As `status_mismatches`; what takes long is looked for only in the documents that a run changed."""
    return _mismatches(pipeline, month, assets, touched.documents)


def _mismatches(
    pipeline: Pipeline, month: Month, assets: Sequence[str], documents: Collection[UUID] | None
) -> list[Finding]:
    built = pipeline.vectors
    queries = [
        _Query(
            "status_mismatches",
            mismatch.where,
            month,
            mismatch.problem,
            partial(
                consistency_queries.mismatched,
                mismatch=mismatch,
                month=month,
                built=built,
                documents=documents,
                generation=pipeline.number,
            ),
            f"{repair_command(month)}: {mismatch.what_to_do}",
        )
        for mismatch in consistency_queries.MISMATCHES
        if mismatch.where in assets
    ]
    return _ask_twice(pipeline.stores.database, queries)


def source_statistics(pipeline: Pipeline, assets: Sequence[str]) -> list[Finding]:
    """Find sources whose stored counts differ from their items; reported for `documents`."""
    if "documents" not in assets:
        return []

    def count(connection: Connection) -> CountAndSample:
        rows = sources.wrong_statistics(connection)
        return len(rows), rows[: consistency_queries.SAMPLE]

    problem = "sources whose statistics differ from their items"
    what_to_do = f"{repair_command(None)} recounts them"
    query = _Query("status_mismatches", "documents", None, problem, count, what_to_do)
    found: list[Finding] = []
    # A run recounts what it has changed after it has changed it; one that has just ended is not seen any more.
    for _ in range(2):
        found = _ask_twice(pipeline.stores.database, [query])
        if not found or pipeline.months_in_progress():
            return []
    return found


def _ask_twice(database: Database, queries: list[_Query]) -> list[Finding]:
    """Return what is found, and found again after a pause: between two steps of a run much looks stuck."""
    found = _ask(database, queries)
    if found:
        time.sleep(_PAUSE_SECONDS)
        found = _ask(database, [query for query, _ in found])
    return [
        Finding(query.check, query.where, query.month, query.problem, total, sample, query.what_to_do)
        for query, (total, sample) in found
    ]


def _ask(database: Database, queries: list[_Query]) -> list[tuple[_Query, CountAndSample]]:
    with database.connection() as connection:
        counted = [(query, query.count(connection)) for query in queries]
    return [(query, (total, sample)) for query, (total, sample) in counted if total]
