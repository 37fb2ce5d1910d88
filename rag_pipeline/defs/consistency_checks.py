"""The consistency checker as asset checks, partitioned by month, one step an asset.

One step, because a collection's checks share one pass over its keys. A check that raises would leave no evaluation
at all, so what cannot be looked at fails its check with the reason.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.findings import WARNINGS, CheckName, Finding
from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind

DESCRIPTIONS: dict[CheckName, str] = {
    "orphaned_chunks": "Chunks without a document.",
    "missing_vectors": "Chunks that say completed and have no vector here, looked up in Milvus.",
    "orphaned_vectors": "Vectors in the month's partition that belong to no chunk of the month.",
    "status_mismatches": "Counts and states that contradict each other or the data, and work that is stuck.",
    "index_issues": "Indexes, keys, triggers, partitions or the collection itself are not as specified.",
    "quarantined_documents": "Documents that are set aside because they, or one of their chunks, cannot be read or "
    "embedded.",
}
_ROW_KINDS: dict[str, tuple[CheckName, ...]] = {
    "documents": ("status_mismatches", "index_issues", "quarantined_documents"),
    "document_chunks": ("orphaned_chunks", "status_mismatches", "index_issues"),
}
_VECTOR_KINDS: tuple[CheckName, ...] = ("missing_vectors", "orphaned_vectors", "index_issues")


def checked_kinds(built: Sequence[VectorKind]) -> dict[str, tuple[CheckName, ...]]:
    """The kinds of inconsistency that each asset is checked for."""
    return _ROW_KINDS | {f"{kind}_collection": _VECTOR_KINDS for kind in built}


def consistency_checks(built: Sequence[VectorKind]) -> list[dg.AssetChecksDefinition]:
    """The checks of all assets, for the kinds of vectors that are built."""
    return [_checks_of(asset, kinds) for asset, kinds in checked_kinds(built).items()]


def _checks_of(asset: str, kinds: Sequence[CheckName]) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{asset}_consistency",
        specs=[
            dg.AssetCheckSpec(kind, asset=asset, partitions_def=months, description=DESCRIPTIONS[kind])
            for kind in kinds
        ],
        can_subset=True,
        required_resource_keys={"pipeline"},
        # Last in a month's run: before its end, what a killed run left looks stuck.
        op_tags={"dagster/priority": "-1"},
    )
    def consistency(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        pipeline: Pipeline = context.resources.pipeline
        month = month_of(context)
        selected = [kind for kind in kinds if _key(asset, kind) in context.selected_asset_check_keys]
        for kind, findings in look(pipeline, month, asset, selected).items():
            yield dg.AssetCheckResult(check_name=kind, asset_key=asset, **_evaluation(kind, findings))

    return consistency


def evaluations(
    found: Sequence[Finding], month: Month, built: Sequence[VectorKind]
) -> Iterator[dg.AssetCheckEvaluation]:
    """What these findings of a month, and of the whole index, mean for every check: a repair tells so at its end."""
    for asset, kinds in checked_kinds(built).items():
        for kind in kinds:
            theirs = [f for f in found if (f.where, f.check) == (asset, kind) and f.month in (month, None)]
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(asset),
                check_name=kind,
                partition=month.partition_key,
                blocking=False,
                **_evaluation(kind, theirs),
            )


def look(
    pipeline: Pipeline, month: Month, asset: str, selected: Sequence[CheckName]
) -> dict[CheckName, list[Finding]]:
    """The findings of these kinds in one asset."""
    checker = DataConsistencyChecker(pipeline)
    found: list[Finding] = []
    if "index_issues" in selected:
        found += checker.index_issues(None, asset) + checker.index_issues(month, asset)
    if "status_mismatches" in selected:
        found += checker.status_mismatches(month, asset)
        found += checker.source_statistics() if asset == "documents" else []
    if "quarantined_documents" in selected:
        found += checker.quarantined_documents(month)
    if "orphaned_chunks" in selected:
        found += checker.orphaned_chunks(month)
    for vectors in pipeline.settings.vectors:
        if asset == f"{vectors}_collection" and {"missing_vectors", "orphaned_vectors"} & set(selected):
            found += _vectors(checker, month, vectors)
    return {kind: [finding for finding in found if finding.check == kind] for kind in selected}


def _vectors(checker: DataConsistencyChecker, month: Month, vectors: VectorKind) -> list[Finding]:
    if checker.readable(vectors):
        return checker.vectors(month, vectors)
    unread: tuple[CheckName, ...] = ("missing_vectors", "orphaned_vectors")
    return [
        Finding(
            kind,
            f"{vectors}_collection",
            month,
            "collection cannot be read: it is not loaded",
            1,
            [{"collection": f"{vectors}_collection"}],
            "`rag-pipeline repair` loads it; see index_issues",
        )
        for kind in unread
    ]


def _evaluation(kind: CheckName, findings: Sequence[Finding]) -> dict[str, Any]:
    rows = [
        (finding.problem, ", ".join(f"{name} {value}" for name, value in one.items()))
        for finding in findings
        for one in finding.sample
    ]
    return {
        "passed": not findings,
        "severity": dg.AssetCheckSeverity.WARN if kind in WARNINGS else dg.AssetCheckSeverity.ERROR,
        "description": "; ".join(f"{f.count} {f.problem}: {f.what_to_do}" for f in findings) or "all is well",
        "metadata": {
            "count": sum(finding.count for finding in findings),
            "sample": table(("problem", "what"), rows),
            "what_to_do": "; ".join(dict.fromkeys(finding.what_to_do for finding in findings)) or "nothing",
        },
    }


def _key(asset: str, kind: CheckName) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(asset), kind)
