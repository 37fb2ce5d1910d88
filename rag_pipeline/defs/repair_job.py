"""The job that repairs one month and evaluates all its checks again, so that they turn green without another run."""

from collections.abc import Sequence
from itertools import chain

import dagster as dg

from rag_pipeline.consistency.findings import Finding
from rag_pipeline.consistency.repair import repair
from rag_pipeline.defs.check_outcomes import consistency_evaluations, count_evaluations, last_materializations
from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.pipeline import Pipeline

REPAIR_MONTH = "repair_month"


class RepairOptions(dg.Config):
    """Options of a repair; with `dry_run` nothing is changed."""

    dry_run: bool = False


@dg.op(
    description="Makes inconsistent rows pending, deletes orphans, rebuilds what is not as specified, then runs "
    "the month. With dry_run it only reports what it finds.",
)
def repair_stores(
    context: dg.OpExecutionContext, config: RepairOptions, pipeline: dg.ResourceParam[Pipeline]
) -> None:
    """Repair the month of the run."""
    month = month_of(context)
    result = repair(pipeline, [month], dry_run=config.dry_run)
    for finding in result.found.findings:
        context.log.info(f"{finding}; {finding.what_to_do}")
    targets = last_materializations(context.instance, month, pipeline.settings)
    evaluations = consistency_evaluations(result.remaining.findings, month, pipeline.settings, targets)
    # A dry run can meet a collection that is not loaded, whose vectors cannot be counted.
    counted = () if config.dry_run else count_evaluations(pipeline, month, targets)
    for evaluation in chain(evaluations, counted):
        context.log_event(evaluation)  # type: ignore[arg-type]
    context.add_output_metadata(
        {
            "found": _findings(result.found.findings),
            "remaining": _findings(result.remaining.findings),
            "embedded": result.embedded,
            "from_embedding_cache": result.reused,
            "deleted_vectors": result.deleted_vectors,
            "dry_run": config.dry_run,
        }
    )
    if not config.dry_run and not result.remaining.consistent:
        remaining = "; ".join(str(finding) for finding in result.remaining.findings)
        raise dg.Failure(f"{month} is still inconsistent: {remaining}")


def _findings(findings: Sequence[Finding]) -> dg.TableMetadataValue:
    rows = [(finding.where, finding.summary) for finding in findings]
    return table(("where", "problem"), rows)


@dg.job(
    name=REPAIR_MONTH,
    partitions_def=months,
    description="Repair what the consistency checks find in one month; re-embed only chunks with missing vectors.",
)
def repair_month() -> None:
    """One op, so that the month's lock is held throughout."""
    repair_stores()
