"""The table of consistency checks, and how they are asked.

A new check is one entry here. `DataConsistencyChecker` asks all of them, a Dagster asset check those of its asset,
and the repair those that decide what it rebuilds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from rag_pipeline.consistency import row_checks, structure_checks, vector_checks
from rag_pipeline.consistency.asset_names import TABLE_ASSETS, built_assets, collection_asset
from rag_pipeline.settings import VECTOR_KINDS, VectorKind

if TYPE_CHECKING:
    from rag_pipeline.consistency.findings import Finding
    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline

MonthQuestion = Callable[["Pipeline", "Month", Sequence[str]], "list[Finding]"]
"""(pipeline, month, assets) → the findings of that month in these assets."""
ChangeQuestion = Callable[["Pipeline", "Month", Sequence[str], "TouchedChunks"], "list[Finding]"]
"""(pipeline, month, assets, what a run touched) → the findings there."""
IndexQuestion = Callable[["Pipeline", Sequence[str]], "list[Finding]"]
"""(pipeline, assets) → the findings of the whole index in these assets."""

_Question = TypeVar("_Question", MonthQuestion, ChangeQuestion, IndexQuestion)

_COLLECTIONS = tuple(collection_asset(kind) for kind in VECTOR_KINDS)


@dataclass(frozen=True)
class Check:
    """A kind of inconsistency, and the questions that find it. Checks with the same question share its answer."""

    name: str
    description: str
    """For the Dagster UI, which shows it above the result: when the check fails, not what it has found."""
    assets: tuple[str, ...]
    """Where it is looked for. Collections of kinds that are not built are skipped."""
    of_month: MonthQuestion
    of_change: ChangeQuestion | None = None
    """Asked at the end of a run instead of `of_month`, whose time grows with the month."""
    of_index: IndexQuestion | None = None
    of_index_is_costly: bool = False
    """It reads all items. The checks of a single month in Dagster leave it out."""
    severity: Literal["error", "warning"] = "error"
    """A warning needs a person, but leaves the index consistent."""
    is_asked_first: bool = False
    """Its findings explain those of the other checks."""
    description_of_tables: str = ""
    """Instead of `description`, where it is not the same for tables and collections."""

    def description_on(self, asset: str) -> str:
        """Return the description for one of its assets."""
        return (asset in TABLE_ASSETS and self.description_of_tables) or self.description


CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check(
            "orphaned_chunks",
            "Fails if a chunk of the month has no document.",
            assets=("document_chunks",),
            of_month=row_checks.orphaned_chunks,
        ),
        Check(
            "missing_vectors",
            "Fails if a chunk should have vectors in this collection and has none. At the end of a run it looks at the "
            "chunks that the run changed, every night at all of them.",
            assets=_COLLECTIONS,
            of_month=vector_checks.missing_and_orphaned_vectors,
            of_change=vector_checks.missing_and_orphaned_among,
        ),
        Check(
            "orphaned_vectors",
            "Fails if the collection has vectors of the month that belong to no chunk, or vectors in a partition that is "
            "no month's. At the end of a run it looks at the chunks that the run changed, every night at all of them.",
            assets=_COLLECTIONS,
            of_month=vector_checks.missing_and_orphaned_vectors,
            of_change=vector_checks.missing_and_orphaned_among,
            of_index=vector_checks.vectors_outside_months,
        ),
        Check(
            "status_mismatches",
            "Fails if counts or statuses contradict each other or the data, or if work is stuck. At the end of a run it "
            "looks at the documents that the run changed and at their words, every night at all of them.",
            assets=TABLE_ASSETS,
            of_month=row_checks.status_mismatches,
            of_change=row_checks.status_mismatches_among,
            of_index=row_checks.source_statistics,
            of_index_is_costly=True,
        ),
        Check(
            "index_issues",
            "Fails if the collection, its indexes or its partition of the month are missing, not loaded or not as specified.",
            assets=(*TABLE_ASSETS, *_COLLECTIONS),
            of_month=structure_checks.partition_issues,
            of_index=structure_checks.table_and_collection_issues,
            is_asked_first=True,
            description_of_tables="Fails if an index, a key, a trigger or a partition of the table is missing, invalid or "
            "not as specified.",
        ),
        Check(
            "quarantined_documents",
            "Warns if a document of the month is quarantined: it, or one of its chunks, cannot be read or embedded.",
            assets=("documents",),
            of_month=row_checks.quarantined_documents,
            severity="warning",
        ),
    )
}
"""By name, in the order in which findings are reported."""


def checks_by_asset(built: Sequence[VectorKind]) -> dict[str, list[Check]]:
    """Return the checks that are on each asset, for the kinds of vectors that are built."""
    return {asset: [check for check in CHECKS.values() if asset in check.assets] for asset in built_assets(built)}


def check_index(
    pipeline: Pipeline,
    *,
    names: Collection[str] = CHECKS,
    assets: Collection[str] | None = None,
    costly: bool = True,
) -> list[Finding]:
    """Return what these checks find wrong with the index as a whole, in these assets (default: all).

    Without `costly`, questions that read all items are left out.
    """
    asked = [check for check in _in_order(names) if costly or not check.of_index_is_costly]
    with pipeline.one_generation():
        questions = _questions_of(((check, check.of_index) for check in asked if check.of_index), pipeline, assets)
        found = [finding for question, where in questions for finding in question(pipeline, where)]
    return [finding for finding in found if finding.check in names]


def check_month(
    pipeline: Pipeline,
    month: Month,
    *,
    names: Collection[str] = CHECKS,
    assets: Collection[str] | None = None,
    touched: TouchedChunks | None = None,
) -> list[Finding]:
    """Return what these checks find wrong with a month, in these assets (default: all).

    Checks that can do so look only at what a run `touched`.
    """
    asked = _in_order(names)
    of_change = [(check, check.of_change) for check in asked if touched and check.of_change]
    of_month = [(check, check.of_month) for check in asked if not (touched and check.of_change)]
    with pipeline.one_generation():
        found = [
            finding
            for question, where in _questions_of(of_month, pipeline, assets)
            for finding in question(pipeline, month, where)
        ]
        if touched:
            for among, where in _questions_of(of_change, pipeline, assets):
                found += among(pipeline, month, where, touched)
    return [finding for finding in found if finding.check in names]


def _in_order(names: Collection[str]) -> list[Check]:
    """The named checks in the order in which they are asked."""
    return sorted((CHECKS[name] for name in CHECKS if name in names), key=lambda check: not check.is_asked_first)


def _questions_of(
    pairs: Iterable[tuple[Check, _Question]], pipeline: Pipeline, assets: Collection[str] | None
) -> list[tuple[_Question, list[str]]]:
    """Each question once, with the built assets that it is asked about."""
    chosen = [asset for asset in built_assets(pipeline.vectors) if assets is None or asset in assets]
    concerned: dict[_Question, set[str]] = {}
    for check, question in pairs:
        concerned.setdefault(question, set()).update(check.assets)
    questions = [
        (question, [asset for asset in chosen if asset in where]) for question, where in concerned.items()
    ]
    return [(question, where) for question, where in questions if where]
