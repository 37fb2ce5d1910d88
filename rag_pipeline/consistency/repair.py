"""The repair of what the checker finds, a month at a time; the write path does what it can.

Under the month's lock, contradictory rows become pending and orphans are deleted. Then documents are chunked,
vectors written and the outbox drained as in any run. Unaffected chunks are never re-embedded, and lost vectors
come from `embedding_cache` if they are there. Every step can be killed and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.asset_names import collection_asset
from rag_pipeline.consistency.checker import Consistency, DataConsistencyChecker
from rag_pipeline.consistency.checks import check_index
from rag_pipeline.consistency.comparison import chunks_of, differences, vectors_of_no_month
from rag_pipeline.indexing.month_run import MonthRun, run_steps
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import collection_inspection as milvus_inspection
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.collections import generations as collections_of
from rag_pipeline.stores.milvus.partitions import drop_partition
from rag_pipeline.stores.postgres import (
    consistency_queries,
    consistency_repairs,
    expiring_months,
    generations,
    index_epochs,
    schema,
    schema_inspection,
    sources,
)
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline.stores.postgres.schema_rebuild import rebuild

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rag_pipeline.consistency.findings import Finding
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_LOCK_WAIT_SECONDS = 3600
_MOST_REBUILDS = 200


@dataclass
class RepairResult:
    """What a repair found, did, and could not repair."""

    found: Consistency
    remaining: Consistency
    """What the check after the repair found; for a dry run, the same as `found`."""
    months: list[Month] = field(default_factory=list)
    embedded: int = 0
    """Chunks that were embedded."""
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""
    deleted_vectors: int = 0
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the result as `rag-pipeline repair --json` prints it."""
        return {
            "dry_run": self.dry_run,
            "consistent": self.remaining.consistent,
            "months": [str(month) for month in self.months],
            "embedded": self.embedded,
            "reused": self.reused,
            "deleted_vectors": self.deleted_vectors,
            "found": self.found.as_json(),
            "remaining": self.remaining.as_json(),
        }


def take_aliases(pipeline: Pipeline) -> list[str]:
    """Let Milvus' aliases follow a PostgreSQL that was restored or is new, before a repair; see `take_aliases` there.

    It is also how an index gets collections under another prefix. Return the collections that they pointed to and that
    are no generation's.
    """
    with _structure_lock(pipeline):
        pipeline.take_prefix()
        left = milvus_inspection.take_aliases(pipeline.collections)
    prefix = pipeline.settings.milvus_prefix
    with pipeline.stores.database.connection() as connection:
        of_generations = [
            collection
            for row in generations.all_of_them(connection)
            for collection in collections_of(
                prefix, row.embedder, row.dimension, row.multi_dimension, suffix=row.collections
            ).values()
        ]
    return sorted(set(left) - {name for one in of_generations for name in (one.name, one.copy)})


def repair(pipeline: Pipeline, months: Sequence[Month] | None = None, *, dry_run: bool = False) -> RepairResult:
    """Check these months (default: all), repair the inconsistent ones, and check again.

    `dry_run` only checks; its findings say what would be done. Raises `StoreUnavailableError` if a store is
    unreachable, and a `RagError` for something that cannot be repaired. What was done stays, and the next repair
    continues from there. Repairs of several months can run side by side.
    """
    checker = DataConsistencyChecker(pipeline)
    if dry_run:
        found = checker.check_consistency(months)
        return RepairResult(found, found, _inconsistent_months(found), dry_run=True)
    # First: without it a collection can be unreadable, or is recreated without its vectors.
    broken = _repair_structure(pipeline)
    found = checker.check_consistency(months)
    found.add(finding for finding in broken if finding not in found.findings)
    result = RepairResult(found, found)
    if found.consistent:
        return result
    due = set(_inconsistent_months(found)) | _delete_vectors_of_no_month(pipeline, result)
    done: set[Month] = set()
    while due - done:
        month = min(due - done)
        pipeline.progress(f"repair {month}", len(done), len(due))
        others = _MonthRepair(pipeline, month, result).run()
        due |= others
        done = (done | {month}) - others
    result.months = sorted(done)
    if pipeline.is_live:
        with pipeline.stores.database.connection() as connection:
            sources.refresh_statistics(connection)
    result.remaining = checker.check_consistency(None if months is None else [*months, *done])
    return result


def _inconsistent_months(found: Consistency) -> list[Month]:
    return sorted({finding.month for finding in found.errors if finding.month is not None})


def _structure_lock(pipeline: Pipeline) -> AbstractContextManager[None]:
    """Hold the lock on what all months share: repairs of several months would build the same index side by side."""
    return advisory_lock(pipeline.stores.database, "the structure of the index", _LOCK_WAIT_SECONDS)


def _repair_structure(pipeline: Pipeline) -> list[Finding]:
    """Rebuild what differs from the specification of the schema and of the collections; return what differed."""
    database, collections = pipeline.stores.database, pipeline.collections
    with _structure_lock(pipeline):
        found = check_index(pipeline, names=("index_issues",))
        if not found:
            return []
        collections.invalidate()
        for problem in schema_inspection.schema_problems(database):
            rebuild(database, problem)
        for kind in pipeline.vectors:
            if any(finding.where == collection_asset(kind) for finding in found):
                for broken in milvus_inspection.collection_problems(collections, kind):
                    milvus_inspection.repair(collections, broken, pipeline.progress)
    return found


def _delete_vectors_of_no_month(pipeline: Pipeline, result: RepairResult) -> set[Month]:
    """Delete what is stored in partitions of no month. Return the months that lost vectors by it.

    Deleting a key deletes it from every partition, also from that of its chunk's month.
    """
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    months: set[Month] = set()
    for kind in pipeline.vectors:
        name = pipeline.collections.generations[kind].name
        for _, keys in vectors_of_no_month(pipeline, kind):
            with sole_writer(database, milvus, name):
                rows.delete(milvus, name, sorted(keys))
            result.deleted_vectors += len(keys)
            with database.connection() as connection:
                months.update(consistency_queries.months_of(connection, list(chunks_of(keys))).values())
    return months


class _MonthRepair:
    """The repair of one month."""

    def __init__(self, pipeline: Pipeline, month: Month, result: RepairResult) -> None:
        self._pipeline = pipeline
        self._database = pipeline.stores.database
        self._milvus = pipeline.stores.milvus
        self._month = month
        self._result = result
        self._built = pipeline.vectors

    def run(self) -> set[Month]:
        """Repair the month. Return the other months that lost vectors by it: those stored in the wrong partition."""
        pipeline, month = self._pipeline, self._month
        others: set[Month] = set()
        with pipeline.month_lock(month, _LOCK_WAIT_SECONDS):
            if not self._restore_partitions():
                return others
            with self._database.connection() as connection:
                consistency_repairs.delete_orphaned_chunks(connection, month)
                fetch = consistency_repairs.refetch_items(connection, month) if pipeline.is_live else 0
                consistency_repairs.repair_statuses(connection, month, self._built)
            for kind in self._built:
                others |= self._compare(kind)
            with self._database.connection() as connection:
                consistency_repairs.restore_ids(connection, month, self._built)
            done = MonthRun()
            run_steps(pipeline, month, done, fetch=bool(fetch))
            self._result.embedded += done.stats.embedded
            self._result.reused += done.stats.reused
            with self._database.connection() as connection:
                consistency_repairs.restore_sources(connection, month)
                consistency_repairs.recount_terms(connection, month)
                index_epochs.advance(connection, month)
        return others

    def _restore_partitions(self) -> bool:
        """Restore the month's partitions; False if PostgreSQL has none, so that Milvus must not have any either."""
        month = self._month
        with _structure_lock(self._pipeline):
            # A missing table shows its own problems only once it exists again.
            for _ in range(_MOST_REBUILDS):
                problems = schema_inspection.partition_problems(self._database, month)
                if not problems:
                    break
                rebuild(self._database, problems[0])
        if month in schema.existing_months(self._database):
            with self._database.connection() as connection:
                expected = consistency_queries.expects_vectors(connection, month)
            if expected:
                self._pipeline.collections.invalidate()
                self._pipeline.ensure_collections(month)
            return True
        with self._database.connection() as connection:
            if month in expiring_months.in_progress(connection):
                return False
        for kind, generation in self._pipeline.collections.generations.items():
            self._result.deleted_vectors += self._pipeline.collections.stored(kind, month)
            with sole_writer(self._database, self._milvus, generation.name):
                drop_partition(self._milvus, generation.name, month)
        return False

    def _compare(self, kind: VectorKind) -> set[Month]:
        """Unset the ids of missing vectors and delete orphaned ones. Return the months of the misplaced ones."""
        name = self._pipeline.collections.generations[kind].name
        others: set[Month] = set()
        for part in differences(self._pipeline, self._month, kind):
            if part.missing:
                with self._database.connection() as connection:
                    consistency_repairs.forget_vectors(connection, self._month, kind, part.missing)
            if part.orphaned:
                with sole_writer(self._database, self._milvus, name):
                    rows.delete(self._milvus, name, list(part.orphaned))
                self._result.deleted_vectors += len(part.orphaned)
            # Deleting a key deletes it from every partition, so the right one has to be filled again.
            others |= set(part.misplaced.values())
        return others
