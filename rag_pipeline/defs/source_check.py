"""What Dagster shows of a source besides its freshness: each scan as a materialization, and a check of its health.

A scan is a materialization and not an observation, because freshness policies look at materializations only. Its data
version changes when the scan finds a change, so that a scan that finds nothing makes no asset downstream look stale.
"""

from typing import Any

import dagster as dg

from rag_pipeline.defs.assets import source_key
from rag_pipeline.defs.metadata import table
from rag_pipeline.indexing.scan import ScanResult
from rag_pipeline.indexing.source_health import SourceHealth, source_health
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.not_included import described

CHECK = "source_readable"

_DATA_VERSION = "dagster/data_version"


def source_check(config: SourceConfig) -> dg.AssetChecksDefinition:
    """Return the check of a source. Each scan evaluates it; executed by hand, it shows what the last scan found."""

    @dg.asset_check(
        asset=source_key(config.name),
        name=CHECK,
        description="Fails if the source cannot be reached, or not all of it can be listed. Warns of items that "
        "cannot be read.",
    )
    def source_readable(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**_evaluation(source_health(pipeline, config)))

    return source_readable


def record_scan(
    instance: dg.DagsterInstance, pipeline: Pipeline, config: SourceConfig, result: ScanResult | None
) -> None:
    """Record a complete scan, and the check of the source after it; `result` is None if the scan failed."""
    key = source_key(config.name)
    if result is not None:
        instance.report_runless_asset_event(_materialization(instance, key, result))
    evaluation = _evaluation(source_health(pipeline, config))
    instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=key, check_name=CHECK, **evaluation))


def _materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, result: ScanResult
) -> dg.AssetMaterialization:
    latest = instance.get_latest_materialization_event(key)
    before = latest.asset_materialization if latest else None
    version = int((before.tags or {}).get(_DATA_VERSION, 0)) if before else 0
    changed = bool(result.new or result.changed or result.gone)
    return dg.AssetMaterialization(
        key,
        description=str(result),
        metadata={
            "items": result.scanned,
            "new": result.new,
            "changed": result.changed,
            "gone": result.gone,
            "not_listed": len(result.problems),
            "not_included": described(result.not_included) or "nothing",
        },
        tags={_DATA_VERSION: str(version + changed)},
    )


def _evaluation(health: SourceHealth) -> dict[str, Any]:
    return {
        "passed": health.healthy,
        "severity": dg.AssetCheckSeverity.WARN if health.reachable else dg.AssetCheckSeverity.ERROR,
        "description": str(health),
        "metadata": {
            "not_listed": health.unlisted_count,
            "not_readable": health.unreadable_count,
            "problems": table(("item", "reason"), [*((path, "") for path in health.unlisted), *health.unreadable]),
            **({"last_scan": dg.MetadataValue.timestamp(health.last_scan)} if health.last_scan else {}),
            **({"next_scan": dg.MetadataValue.timestamp(health.next_scan)} if health.next_scan else {}),
        },
    }
