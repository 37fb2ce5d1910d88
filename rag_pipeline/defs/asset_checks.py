"""The asset checks, each partitioned by month: an unpartitioned one leaves a ghost row in every run."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.defs.consistency_checks import consistency_checks
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.indexing.verify import verify
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.stores.postgres import vector_deletions


def index_checks(built: Sequence[VectorKind]) -> list[dg.AssetChecksDefinition]:
    """The checks of the assets that are built."""
    return [
        *(_vectors_verified(kind) for kind in built),
        *consistency_checks(built),
        vector_deletions_backlog,
    ]


def _vectors_verified(kind: VectorKind) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=f"{kind}_collection",
        name="vectors_verified",
        partitions_def=months,
        blocking=True,
        description="Expected = stored = searchable: what PostgreSQL says the month has, what its partition in "
        "Milvus holds, and what queries find. A difference fails the run.",
    )
    def vectors_verified(
        context: dg.AssetCheckExecutionContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.AssetCheckResult:
        (counts,) = verify(pipeline, month_of(context), [kind])
        return dg.AssetCheckResult(
            passed=counts.equal,
            severity=dg.AssetCheckSeverity.ERROR,
            description=str(counts),
            metadata={
                "expected": counts.expected,
                "stored": counts.stored,
                "searchable": counts.searchable,
                "pending_deletions": counts.pending_deletions,
            },
        )

    return vectors_verified


@dg.asset_check(
    asset="document_chunks",
    partitions_def=months,
    # After the vectors in a month's run, which deletes at its end: before it, any large deletion looks like a backlog.
    op_tags={"dagster/priority": "-1"},
    description="Chunks of the month whose vectors are still to be deleted from Milvus; past RAG_DELETIONS_BACKLOG it "
    "fails.",
)
def vector_deletions_backlog(
    context: dg.AssetCheckExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.AssetCheckResult:
    limit = pipeline.settings.deletions_backlog
    with pipeline.stores.database.connection() as connection:
        waiting, since = vector_deletions.waiting(connection, month_of(context))
    return dg.AssetCheckResult(
        passed=waiting <= limit,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{waiting} deletions wait for Milvus, more than RAG_DELETIONS_BACKLOG ({limit}) allows: see what "
        "the sensor drain_vector_deletions says"
        if waiting > limit
        else f"{waiting} deletions wait for Milvus",
        metadata={
            "waiting": waiting,
            "limit": limit,
            "oldest_seconds": (datetime.now(UTC) - since).total_seconds() if since else 0.0,
        },
    )
