"""The asset `next_generation`: the months of a generation that is built beside the live one; its job and its sensor.

Its partitions are the generation's own, such as `2024-01 of generation 2`, so that each generation has a history, and a
month of it and the same month of the live one can run side by side.
"""

import logging
import re
from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.defs.assets import OWNERS
from rag_pipeline.defs.jobs import partitions_in_runs
from rag_pipeline.defs.month_partitions import GENERATION, NOT_A_MONTH, month_of_key
from rag_pipeline.defs.sensors import dump_requested, load_requested
from rag_pipeline.generations.build import build_month, pending_work
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.run_selection import due_months
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import generations, schema
from rag_pipeline.stores.postgres.generations import GenerationRow

ASSET = "next_generation"
BUILD_GENERATION = "build_generation"

_NAME = "months_of_generations"
_MONTHS_PER_TICK = 12
_KEY = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}){GENERATION}([0-9]{{1,9}})")

_logger = logging.getLogger(__name__)

generation_months = dg.DynamicPartitionsDefinition(name=_NAME)


def key_of(row: GenerationRow, month: Month) -> str:
    """Return the partition of a month of a generation."""
    return f"{month}{GENERATION}{row.id}"


def parse_key(key: str) -> tuple[Month, int] | None:
    """Return the month and the generation of a partition; None for another project's, or what somebody has typed."""
    match = _KEY.fullmatch(key)
    month = month_of_key(f"{match[1]}-01") if match else None
    return (month, int(match[2])) if match and month else None


def show_generation_months(instance: dg.DagsterInstance, pipeline: Pipeline, row: GenerationRow) -> None:
    """Add what is missing of a generation's months to those that Dagster knows, and delete what is no generation's.

    Those of other generations stay as history.
    """
    known = set(instance.get_dynamic_partitions(_NAME))
    for key in sorted(key for key in known if parse_key(key) is None):
        instance.delete_dynamic_partition(_NAME, key)
        _logger.warning("deleted from Dagster's list of months of generations what is not one: %r", key)
    keys = [key_of(row, month) for month in schema.existing_months(pipeline.stores.database)]
    if missing := [key for key in keys if key not in known]:
        instance.add_dynamic_partitions(_NAME, missing)


@dg.asset(
    name=ASSET,
    partitions_def=generation_months,
    group_name="generations",
    owners=OWNERS,
    kinds={"postgres", "milvus"},
    deps=["documents"],
    description="A month of the generation that is built beside the live one: its documents copied from the live one, "
    "cut, embedded, written, counted and checked. `rag-pipeline generations build` begins a generation; then the sensor "
    "build_generation_months or a backfill of its partitions builds it, and `rag-pipeline generations switch` makes it "
    "live.",
)
def next_generation(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    month_run: dg.ResourceParam[MonthRun],
) -> dg.MaterializeResult:
    """Build a month, or bring it up to date."""
    parsed = parse_key(context.partition_key) if context.has_partition_key else None
    if parsed is None:
        raise dg.Failure(
            "This works on one month of a generation: choose a partition of the list, such as "
            f"{Month.now()}{GENERATION}2, and run it again.",
            metadata={NOT_A_MONTH: context.partition_key} if context.has_partition_key else None,
        )
    month, number = parsed
    with pipeline.stores.database.connection() as connection:
        row = generations.of_id(connection, number)
    if row is None or row.state not in ("building", "previous"):
        state = "does not exist any more" if row is None else f"is {row.state}"
        raise dg.Failure(f"Generation {number} {state}: there is nothing to build.")
    build_month(pipeline, row, month, month_run)
    stats = month_run.stats
    billed = {"embedding_tokens": month_run.embedding_tokens} if month_run.embedding_tokens else {}
    return dg.MaterializeResult(
        metadata={
            "embedder": row.embedder,
            "documents_taken_over": stats.documents,
            "chunks": stats.chunks,
            "embedded_chunks": stats.embedded,
            "from_embedding_cache": stats.reused,
            "failed_chunks": stats.failed_chunks,
            **billed,
            **{f"{counts.kind}_vectors": counts.stored for counts in month_run.verified},
        }
    )


build_generation = dg.define_asset_job(
    BUILD_GENERATION,
    selection=dg.AssetSelection.assets(ASSET),
    description="Build one month of the next generation, or bring it up to date with the live one.",
)


@dg.sensor(
    name="build_generation_months",
    job_name=BUILD_GENERATION,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs build_generation for the months that the next generation lacks, or that have changed since it was "
    "built, newest first. Does nothing unless a generation is being built.",
)
def build_generation_months(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Request the months with pending work, a few at a time."""
    with pipeline.stores.database.connection() as connection:
        row = next((row for row in generations.all_of_them(connection) if row.state == "building"), None)
    if row is None:
        return dg.SkipReason("no generation is being built")
    show_generation_months(context.instance, pipeline, row)
    running = map(parse_key, partitions_in_runs(context.instance, BUILD_GENERATION))
    busy = {parsed[0] for parsed in running if parsed and parsed[1] == row.id}
    work = pending_work(pipeline, row)
    due, requested = due_months(work, busy, load_requested(context.cursor), datetime.now(UTC), _MONTHS_PER_TICK)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(partition_key=key_of(row, month)) for month in reversed(due)],
        cursor=dump_requested(requested),
        skip_reason=None if due else f"{row.name}: {len(work)} months to build; none is due",
    )
