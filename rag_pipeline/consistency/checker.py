"""DataConsistencyChecker: asks every check about the whole index. Changes nothing.

It can be used while runs are writing. What a killed run leaves unfinished is not inconsistent by itself: it is
pending, and the next run resumes it. It becomes inconsistent when no run does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.asset_names import TABLE_ASSETS
from rag_pipeline.consistency.checks import CHECKS, check_index, check_month
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.partitions import existing_collections
from rag_pipeline.stores.postgres import consistency_queries, expiring_months, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rag_pipeline.consistency.findings import Finding
    from rag_pipeline.pipeline import Pipeline


@dataclass
class Consistency:
    """What a full check found: the findings of each check, none where the index is consistent.

    The lists are also attributes by the checks' names: `found.missing_vectors`.
    """

    by_check: dict[str, list[Finding]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    def of(self, check: str) -> list[Finding]:
        """Return the findings of a check."""
        return self.by_check[check]

    def __getattr__(self, name: str) -> list[Finding]:
        if name in CHECKS:
            return self.of(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings to the lists of their checks, except those whose cause another check reports."""
        for finding in findings:
            if finding.caused_by is None:
                self.by_check[finding.check].append(finding)

    @property
    def findings(self) -> list[Finding]:
        """All findings, by check."""
        return [finding for found in self.by_check.values() for finding in found]

    @property
    def errors(self) -> list[Finding]:
        """The findings that make the index inconsistent: all but warnings."""
        return [finding for finding in self.findings if CHECKS[finding.check].severity == "error"]

    @property
    def consistent(self) -> bool:
        """Whether nothing was found but warnings."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """Return `consistent` and a list for each check, as `rag-pipeline check --json` prints them."""
        lists = {name: [finding.as_json() for finding in found] for name, found in self.by_check.items()}
        return {"consistent": self.consistent, **lists}


class DataConsistencyChecker:
    """Asks all checks of `checks.CHECKS` about one month, several, or all of them.

    Counts are exact, samples capped. Raises `StoreUnavailableError` if a store is unreachable.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def months(self) -> list[Month]:
        """Return the months for which a store has a partition or a source has items, except those that are expiring."""
        database, milvus = self._pipeline.stores.database, self._pipeline.stores.milvus
        found = set(schema.existing_months(database))
        with database.connection() as connection:
            found.update(consistency_queries.months_of_items(connection))
            expiring = set(expiring_months.in_progress(connection))
        if self._is_empty():
            return sorted(found - expiring)
        for generation in self._pipeline.collections.generations.values():
            with milvus.client() as client:
                if client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
                    names = client.list_partitions(generation.name, timeout=TIMEOUT_SECONDS)
                    found.update(month for name in names if (month := Month.from_milvus_partition(name)))
        return sorted(found - expiring)

    def check_consistency(self, months: Sequence[Month] | None = None) -> Consistency:
        """Check the index as a whole and these months (default: all)."""
        found = Consistency()
        chosen = self.months() if months is None else sorted(set(months))
        # An embedding server need not answer before there is anything that it has embedded.
        assets = TABLE_ASSETS if self._is_empty() else None
        found.add(check_index(self._pipeline, assets=assets))
        for number, month in enumerate(chosen):
            self._pipeline.progress("check", number, len(chosen))
            found.add(check_month(self._pipeline, month, assets=assets))
        return found

    def _is_empty(self) -> bool:
        """Whether nothing was ever indexed, and Milvus has none of our collections."""
        stores = self._pipeline.stores
        if self._pipeline.generation.row is not None:
            return False
        with stores.database.connection() as connection:
            if consistency_queries.expects_vectors(connection):
                return False
        return not existing_collections(stores.milvus, self._pipeline.settings.milvus_prefix)
