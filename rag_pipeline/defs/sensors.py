"""The sensors: one a source that looks at what exists, and one that runs the months with pending work.

They run without being switched on by hand. A tick ends well within Dagster's limit of 60 s: a scan stops at its
deadline and goes on at the next tick.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.defs.assets import source_key
from rag_pipeline.defs.jobs import INDEX_MONTH
from rag_pipeline.indexing.due import Asked, due_months, pending_work
from rag_pipeline.indexing.pipeline import Pipeline
from rag_pipeline.indexing.scan import is_due, scan_source
from rag_pipeline.months import Month
from rag_pipeline.settings import load_settings
from rag_pipeline.sources.config import SourceConfig

_SCAN_SECONDS = 30
_MONTHS_PER_TICK = 12


def sync_sensor(config: SourceConfig) -> dg.SensorDefinition:
    """Scans a source at its cron; what it finds new, changed or gone becomes pending work."""

    @dg.sensor(
        name=f"sync_{config.name}",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks at what the source {config.name} holds ({config.schedule}). The sensor "
        "index_pending_months runs the months it finds work for.",
    )
    def sync(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            if not is_due(pipeline, config, datetime.now(UTC)):
                return dg.SensorResult(skip_reason=f"{config.name} is not due yet ({config.schedule})")
            result = scan_source(pipeline, config, deadline=time.monotonic() + _SCAN_SECONDS, wait_seconds=0)
        summary = f"{result.scanned} items: {result.new} new, {result.changed} changed, {result.gone} gone"
        if not result.complete:
            return dg.SensorResult(skip_reason=f"{summary}; goes on at the next tick")
        if not (result.new or result.changed or result.gone or result.problems):
            return dg.SensorResult(skip_reason=summary)
        return dg.SensorResult(
            skip_reason=summary,
            asset_events=[
                dg.AssetMaterialization(
                    source_key(config.name),
                    description=summary,
                    metadata={
                        "items": result.scanned,
                        "new": result.new,
                        "changed": result.changed,
                        "gone": result.gone,
                        "problems": result.problems[:20],
                    },
                )
            ],
        )

    return sync


def index_pending_months(sources: Sequence[SourceConfig]) -> dg.SensorDefinition:
    """Runs the months with pending work, oldest first; a month whose run failed is tried again after a pause."""

    @dg.sensor(
        name="index_pending_months",
        job_name=INDEX_MONTH,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs index_month for the months with pending work, oldest first.",
    )
    def pending(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with Pipeline(load_settings()) as pipeline:
            pipeline.prepare()
            work = pending_work(pipeline)
        due, asked = due_months(
            work, _busy(context.instance), _load(context.cursor), datetime.now(UTC), _MONTHS_PER_TICK
        )
        return dg.SensorResult(
            run_requests=[dg.RunRequest(partition_key=month.partition_key) for month in due],
            cursor=_dump(asked),
            skip_reason=None if due else f"{len(work)} months have pending work, none is due",
        )

    return pending


def _busy(instance: dg.DagsterInstance) -> set[Month]:
    """The months that a run is queued for or working on."""
    runs = instance.get_runs(
        dg.RunsFilter(
            statuses=[
                dg.DagsterRunStatus.QUEUED,
                dg.DagsterRunStatus.NOT_STARTED,
                dg.DagsterRunStatus.STARTING,
                dg.DagsterRunStatus.STARTED,
                dg.DagsterRunStatus.CANCELING,
            ]
        )
    )
    return {Month.parse(run.tags["dagster/partition"]) for run in runs if "dagster/partition" in run.tags}


def _load(cursor: str | None) -> dict[Month, Asked]:
    stored = json.loads(cursor) if cursor else {}
    return {
        Month.parse(month): Asked(digest, times, datetime.fromisoformat(again_at))
        for month, (digest, times, again_at) in stored.items()
    }


def _dump(asked: dict[Month, Asked]) -> str:
    return json.dumps({str(month): [a.digest, a.times, a.again_at.isoformat()] for month, a in asked.items()})
