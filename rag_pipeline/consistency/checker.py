"""DataConsistencyChecker: compares the stores with each other and with what is specified. Changes nothing.

May be used while runs are writing. What a run leaves undone when it is killed is no inconsistency by itself: it is
pending, and the next run takes it up; it becomes one when nobody does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.comparison import differences
from rag_pipeline.consistency.findings import Consistency, Finding, Kind
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus import collection_inspection as milvus_inspection
from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.postgres import consistency_queries, retiring_months, schema, schema_inspection, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Connection

Counted = tuple[int, list[dict[str, Any]]]
"""How many, and a sample."""

_PAUSE_SECONDS = 0.5
_NO_COLLECTION_YET = "collection missing"


class DataConsistencyChecker:
    """Looks for the six kinds of inconsistency, a month at a time or in all of them.

    Every method returns findings with exact counts and a sample, an empty list where all is well. They raise
    `StoreUnavailableError` where a store is away.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._database = pipeline.stores.database

    def months(self) -> list[Month]:
        """Every month that either store has a partition for, or a source an item."""
        found = set(schema.existing_months(self._database))
        with self._database.connection() as connection:
            found.update(consistency_queries.months_of_items(connection))
            retiring = set(retiring_months.begun(connection))
        for generation in self._pipeline.collections.generations.values():
            with self._pipeline.stores.milvus.client() as client:
                if client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
                    names = client.list_partitions(generation.name, timeout=TIMEOUT_SECONDS)
                    found.update(month for name in names if (month := Month.from_milvus_partition(name)))
        return sorted(found - retiring)

    def check_consistency(self, months: Sequence[Month] | None = None) -> Consistency:
        """Everything, of these months (default: all) and of the whole index."""
        found = Consistency()
        chosen = self.months() if months is None else sorted(set(months))
        found.add(self.index_issues(None))
        found.add(self.source_statistics())
        for number, month in enumerate(chosen):
            self._pipeline.progress("check", number, len(chosen))
            found.add(self.index_issues(month))
            found.add(self.orphaned_chunks(month))
            for kind in self._pipeline.settings.vectors:
                found.add(self.vectors(month, kind))
            found.add(self.status_mismatches(month))
            found.add(self.quarantined_documents(month))
        return found

    def orphaned_chunks(self, month: Month) -> list[Finding]:
        """Chunks without a document: searches may find them and have nothing to show."""
        query = _Query(
            "orphaned_chunks",
            "document_chunks",
            month,
            "chunks without a document",
            partial(consistency_queries.orphaned_chunks, month=month),
            f"they and their vectors are deleted by {_repair(month)}",
        )
        return self._twice([query])

    def quarantined_documents(self, month: Month) -> list[Finding]:
        """Documents that are set aside because they, or one of their chunks, cannot be read or embedded."""
        query = _Query(
            "quarantined_documents",
            "documents",
            month,
            "documents are set aside",
            partial(consistency_queries.quarantined, month=month),
            "mend them at their source, or run `rag-pipeline ingest --retry-failed`",
        )
        return self._twice([query])

    def status_mismatches(self, month: Month, where: str | None = None) -> list[Finding]:
        """Counts and states that contradict each other or the data, and work that is stuck."""
        built = self._pipeline.settings.vectors
        return self._twice(
            [
                _Query(
                    "status_mismatches",
                    mismatch.where,
                    month,
                    mismatch.problem,
                    partial(consistency_queries.mismatched, mismatch=mismatch, month=month, built=built),
                    f"{_repair(month)}: {mismatch.what_to_do}",
                )
                for mismatch in consistency_queries.MISMATCHES
                if where in (None, mismatch.where)
            ]
        )

    def source_statistics(self) -> list[Finding]:
        """Sources whose stored counts are not those of their items."""

        def count(connection: Connection) -> Counted:
            rows = sources.wrong_statistics(connection)
            return len(rows), rows[: consistency_queries.SAMPLE]

        problem = "sources whose statistics are not those of their items"
        todo = f"they are counted anew by {_repair(None)}"
        return self._twice([_Query("status_mismatches", "documents", None, problem, count, todo)])

    def vectors(self, month: Month, kind: VectorKind) -> list[Finding]:
        """Chunks of which a collection lacks a vector, and keys that no chunk should have.

        A collection that is not loaded cannot be read: nothing is found there, see `index_issues`.
        """
        generation = self._pipeline.collections.generations[kind]
        if not self.readable(kind):
            return []
        missing, orphaned = _Sample(), _Sample()
        for part in differences(self._pipeline, month, kind):
            missing.add(part.missing)
            orphaned.add(part.orphaned.items())
        found: list[Finding] = []
        if orphaned.count and (
            self._retiring(month)
            or not key_ranges.has_partition(self._pipeline.stores.milvus, generation.name, month)
        ):
            return []  # The month is leaving both stores, or has just left.
        with self._database.connection() as connection:
            chunks = consistency_queries.describe_chunks(connection, month, missing.first)
        where = f"{kind}_collection"
        if missing.count:
            todo = f"{_repair(month)} embeds what has no vector, from embedding_cache where it is there"
            problem = f"chunks say completed and lack their vectors in {generation.name}"
            found.append(Finding("missing_vectors", where, month, problem, missing.count, chunks, todo))
        if orphaned.count:
            sample = [{"id": key, "why": why} for key, why in orphaned.first]
            problem = f"vectors of {generation.name} belong to no chunk"
            todo = f"{_repair(month)} deletes them"
            found.append(Finding("orphaned_vectors", where, month, problem, orphaned.count, sample, todo))
        return found

    def readable(self, kind: VectorKind) -> bool:
        """Whether a collection's vectors can be looked up; one that is not there lacks them all."""
        name = self._pipeline.collections.generations[kind].name
        with self._pipeline.stores.milvus.client() as client:
            if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
                return True
        return key_ranges.is_loaded(self._pipeline.stores.milvus, name)

    def index_issues(self, month: Month | None, where: str | None = None) -> list[Finding]:
        """What is not as specified: of a month's partitions, or (None) of the tables and collections themselves."""
        found: list[Finding] = []
        if where is None or not where.endswith("_collection"):
            found += [f for f in self._schema_issues(month) if where in (None, f.where)]
        for kind in self._pipeline.settings.vectors:
            if where in (None, f"{kind}_collection"):
                found += self._collection_issues(month, kind)
        return found

    def _schema_issues(self, month: Month | None) -> list[Finding]:
        if month is None:
            problems = schema_inspection.schema_problems(self._database)
        else:
            problems = schema_inspection.partition_problems(self._database, month)
        found = []
        for where in schema_inspection.PARTITIONED:
            sample: list[dict[str, Any]] = [
                {"problem": problem.what, "table": problem.table, "name": problem.name, "found": problem.found}
                for problem in problems
                if problem.where == where
            ]
            if sample:
                found.append(_index_finding(where, month, "not as the schema declares", sample))
        return found

    def _collection_issues(self, month: Month | None, kind: VectorKind) -> list[Finding]:
        collections = self._pipeline.collections
        name = collections.generations[kind].name
        with self._database.connection() as connection:
            expected = consistency_queries.expects_vectors(connection, month)
        sample: list[dict[str, Any]]
        if month is None:
            problems = milvus_inspection.collection_problems(collections, kind)
            if not expected:  # Nothing was ever indexed: there need not be a collection yet.
                problems = [p for p in problems if p.what != _NO_COLLECTION_YET]
            sample = [
                {"problem": problem.what, "collection": name, "found": problem.found} for problem in problems
            ]
        else:
            stored = key_ranges.has_partition(collections.milvus, name, month)
            if expected and not stored:
                problem = "partition missing"
            elif stored and not expected and self._stray(name, month):
                problem = "partition of a month that PostgreSQL has no partition for"
            else:
                return []
            sample = [{"problem": problem, "collection": name, "found": month.milvus_partition}]
        if not sample:
            return []
        return [_index_finding(f"{kind}_collection", month, "not as specified", sample)]

    def _stray(self, collection: str, month: Month) -> bool:
        """Whether a partition's month is unknown to PostgreSQL, and not just being retired."""
        if month in schema.existing_months(self._database) or self._retiring(month):
            return False
        return key_ranges.has_partition(self._pipeline.stores.milvus, collection, month)

    def _retiring(self, month: Month) -> bool:
        with self._database.connection() as connection:
            return month in retiring_months.begun(connection)

    def _twice(self, queries: list[_Query]) -> list[Finding]:
        """What is found, and found again after a pause: between two steps of a run much looks stuck."""
        found = self._ask(queries)
        if found:
            time.sleep(_PAUSE_SECONDS)
            found = self._ask([query for query, _ in found])
        return [
            Finding(query.kind, query.where, query.month, query.problem, total, sample, query.what_to_do)
            for query, (total, sample) in found
        ]

    def _ask(self, queries: list[_Query]) -> list[tuple[_Query, Counted]]:
        found = []
        for query in queries:
            with self._database.connection() as connection:
                counted = query.count(connection)
            if counted[0]:
                found.append((query, counted))
        return found


@dataclass(frozen=True)
class _Query:
    """A question to PostgreSQL, and what a finding says of its answer."""

    kind: Kind
    where: str
    month: Month | None
    problem: str
    count: Callable[[Connection], Counted]
    what_to_do: str


class _Sample:
    """Counts all, and keeps the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[Any] = []

    def add(self, things: Iterable[Any]) -> None:
        for thing in things:
            self.count += 1
            if len(self.first) < consistency_queries.SAMPLE:
                self.first.append(thing)


def _index_finding(where: str, month: Month | None, problem: str, sample: list[dict[str, Any]]) -> Finding:
    todo = f"{_repair(month)} makes it as specified"
    return Finding("index_issues", where, month, problem, len(sample), sample[: consistency_queries.SAMPLE], todo)


def _repair(month: Month | None) -> str:
    return f"`rag-pipeline repair --month {month}`" if month else "`rag-pipeline repair`"
