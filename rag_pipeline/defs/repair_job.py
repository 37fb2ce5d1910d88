"""The job that repairs one month, and then says of its checks what it found: they need not be run again to pass."""

import dagster as dg

from rag_pipeline.consistency.repair import repair
from rag_pipeline.defs.asset_checks import evaluations
from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.month_partitions import months
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline


class RepairOptions(dg.Config):
    """How a repair is run."""

    dry_run: bool = False


@dg.op(
    required_resource_keys={"pipeline"},
    description="Makes what is wrong pending, deletes what is orphaned, rebuilds what is not as specified, and runs "
    "the write path; with dry_run it only says what it would do.",
)
def repair_stores(context: dg.OpExecutionContext, config: RepairOptions) -> None:
    """Repairs the month of the run."""
    if not context.has_partition_key:
        raise dg.Failure("A repair works on one month: choose a partition, and run it again.")
    pipeline: Pipeline = context.resources.pipeline
    month = Month.parse(context.partition_key)
    result = repair(pipeline, [month], dry_run=config.dry_run)
    for finding in result.found.findings:
        context.log.info(f"{finding}; {finding.what_to_do}")
    for evaluation in evaluations(result.remaining.findings, month, pipeline.settings.vectors):
        context.log_event(evaluation)  # type: ignore[arg-type]
    context.add_output_metadata(
        {
            "found": table(
                ("where", "what"), [(f.where, f"{f.count} {f.problem}") for f in result.found.findings]
            ),
            "remaining": table(
                ("where", "what"), [(f.where, f"{f.count} {f.problem}") for f in result.remaining.findings]
            ),
            "embedded": result.embedded,
            "from_embedding_cache": result.reused,
            "deleted_vectors": result.deleted_vectors,
            "dry_run": config.dry_run,
        }
    )
    if not config.dry_run and not result.remaining.consistent:
        left = "; ".join(str(f) for f in result.remaining.findings)
        raise dg.Failure(f"{month} is still inconsistent: {left}")


@dg.job(
    name="repair_month",
    partitions_def=months,
    description="Repair what the consistency checks find in one month; re-embeds only what has no vectors.",
)
def repair_month() -> None:
    """One op, so that the month's lock is held throughout."""
    repair_stores()
