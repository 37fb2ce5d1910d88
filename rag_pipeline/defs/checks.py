"""The asset checks, each partitioned by month: an unpartitioned one leaves a ghost row in every run."""

from collections.abc import Sequence

import dagster as dg

from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.partitions import month_of, months
from rag_pipeline.indexing.pipeline import Pipeline
from rag_pipeline.indexing.report import set_aside
from rag_pipeline.indexing.verify import verify
from rag_pipeline.settings import VectorKind


def index_checks(built: Sequence[VectorKind]) -> list[dg.AssetChecksDefinition]:
    """The checks of the assets that are built."""
    return [*(_vectors_verified(kind) for kind in built), quarantined_documents]


def _vectors_verified(kind: VectorKind) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=f"{kind}_collection",
        name="vectors_verified",
        partitions_def=months,
        blocking=True,
        required_resource_keys={"pipeline"},
        description="Expected = stored = searchable: what PostgreSQL says the month has, what its partition in "
        "Milvus holds, and what queries find. A difference fails the run.",
    )
    def vectors_verified(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        pipeline: Pipeline = context.resources.pipeline
        counts = verify(pipeline, month_of(context), kind)
        return dg.AssetCheckResult(
            passed=counts.equal,
            severity=dg.AssetCheckSeverity.ERROR,
            description=str(counts),
            metadata={
                "expected": counts.expected,
                "stored": counts.stored,
                "searchable": counts.searchable,
                "waiting_deletions": counts.waiting_deletions,
            },
        )

    return vectors_verified


@dg.asset_check(
    asset="documents",
    partitions_def=months,
    required_resource_keys={"pipeline"},
    description="Documents that are set aside because they, or one of their chunks, cannot be read or embedded.",
)
def quarantined_documents(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    rows = set_aside(context.resources.pipeline, month_of(context))
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(rows)} documents are set aside; mend them at their source, or run "
        "`rag-pipeline ingest --retry-failed`"
        if rows
        else "no document is set aside",
        metadata={"count": len(rows), "sample": table(("document", "reason"), rows)},
    )
