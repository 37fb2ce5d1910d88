"""Repair: makes what the checker finds true again, a month at a time, and lets the write path do what it can.

Under the month's lock: what contradicts itself becomes pending, what is orphaned is deleted, and then documents are
cut, vectors written and the outbox drained as in any run. What is left alone is never embedded again, and what lost
its vectors comes from `embedding_cache` where it is there. Each step may be killed and done again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.comparison import differences
from rag_pipeline.consistency.findings import WARNINGS, Consistency
from rag_pipeline.indexing.month_run import run_steps
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus import collection_inspection as milvus_inspection
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.partitions import drop_partition
from rag_pipeline.stores.postgres import (
    consistency_queries,
    consistency_repairs,
    retiring_months,
    schema,
    schema_inspection,
    sources,
)
from rag_pipeline.stores.postgres.schema_rebuild import rebuild

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_LOCK_WAIT_SECONDS = 3600
_MOST_REBUILDS = 200


@dataclass
class RepairResult:
    """What a repair found, did, and could not do."""

    found: Consistency
    remaining: Consistency
    """What a check finds afterwards; after a dry run, what it found before."""
    months: list[Month] = field(default_factory=list)
    embedded: int = 0
    """Chunks that the embedder was asked for."""
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""
    deleted_vectors: int = 0
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """What `rag-pipeline repair --json` prints."""
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


def repair(pipeline: Pipeline, months: Sequence[Month] | None = None, *, dry_run: bool = False) -> RepairResult:
    """Check these months (default: all), repair those where something is wrong, and check again.

    `dry_run` only checks: its findings say what would be done. Raises `StoreUnavailableError` where a store is away,
    and a `RagError` where something cannot be mended; what was done stays, and the next repair goes on from there.
    """
    checker = DataConsistencyChecker(pipeline)
    found = checker.check_consistency(months)
    if dry_run:
        return RepairResult(found, found, _months_of(found), dry_run=True)
    result = RepairResult(found, found)
    if found.consistent:
        return result
    _repair_whole(pipeline, checker)
    # Looked at again where a collection could not be read before, or was lost with its vectors.
    if any(finding.month is None for finding in found.index_issues):
        found = checker.check_consistency(months)
    due = set(_months_of(found))
    done: set[Month] = set()
    while due - done:
        month = min(due - done)
        pipeline.progress(f"repair {month}", len(done), len(due))
        others = _Repair(pipeline, month, result).run()
        due |= others
        done = (done | {month}) - others
    result.months = sorted(done)
    with pipeline.stores.database.connection() as connection:
        sources.refresh_statistics(connection)
    result.remaining = checker.check_consistency(None if months is None else [*months, *done])
    return result


def _months_of(found: Consistency) -> list[Month]:
    months = {finding.month for finding in found.findings if finding.kind not in WARNINGS}
    return sorted(month for month in months if month is not None)


def _repair_whole(pipeline: Pipeline, checker: DataConsistencyChecker) -> None:
    """The schema, and the collections that should be there."""
    database, collections = pipeline.stores.database, pipeline.collections
    collections.invalidate()
    for problem in schema_inspection.schema_problems(database):
        rebuild(database, problem)
    for kind in pipeline.settings.vectors:
        if checker.index_issues(None, f"{kind}_collection"):
            for trouble in milvus_inspection.collection_problems(collections, kind):
                milvus_inspection.repair(collections, trouble)


class _Repair:
    """The repair of one month."""

    def __init__(self, pipeline: Pipeline, month: Month, result: RepairResult) -> None:
        self._pipeline = pipeline
        self._database = pipeline.stores.database
        self._milvus = pipeline.stores.milvus
        self._month = month
        self._result = result
        self._built = pipeline.settings.vectors

    def run(self) -> set[Month]:
        """Repair the month; other months that lost vectors by it, because those lay in this month's partition."""
        pipeline, month = self._pipeline, self._month
        others: set[Month] = set()
        with pipeline.month_lock(month, _LOCK_WAIT_SECONDS):
            if not self._mend_partitions():
                return others
            with self._database.connection() as connection:
                consistency_repairs.delete_orphaned_chunks(connection, month)
                fetch = consistency_repairs.fetch_again(connection, month)
                consistency_repairs.mend_statuses(connection, month, self._built)
            for kind in self._built:
                others |= self._compare(kind)
            with self._database.connection() as connection:
                consistency_repairs.restore_ids(connection, month, self._built)
            stats = run_steps(pipeline, month, fetch=bool(fetch)).stats
            self._result.embedded += stats.embedded
            self._result.reused += stats.reused
            with self._database.connection() as connection:
                consistency_repairs.recount_terms(connection, month)
        return others

    def _mend_partitions(self) -> bool:
        """Make the month's partitions as they should be; False where the month has none, and none is left now."""
        month = self._month
        # One missing table brings all its problems with it when it is back.
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
                self._pipeline.collections.ensure(month)
            return True
        with self._database.connection() as connection:
            if month in retiring_months.begun(connection):
                return False
        for kind, generation in self._pipeline.collections.generations.items():
            self._result.deleted_vectors += self._pipeline.collections.stored(kind, month)
            with sole_writer(self._database, self._milvus, generation.name):
                drop_partition(self._milvus, generation.name, month)
        return False

    def _compare(self, kind: VectorKind) -> set[Month]:
        """Forget what is not stored, delete what is orphaned; the other months whose keys were among that."""
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
            # Deleting a key deletes it in every partition: the right one has to be filled again.
            others |= set(part.misplaced.values())
        return others
