"""All definitions, built from the settings and `sources.yaml` alone.

Which sources there are is decided when they are loaded. What is done with one goes by the file as it is then.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from rag_pipeline.defs.alert_sensor import alerts
from rag_pipeline.defs.asset_checks import index_checks
from rag_pipeline.defs.assets import index_assets, invalid_source_asset, source_assets
from rag_pipeline.defs.index_months import index_months_job
from rag_pipeline.defs.jobs import check_month, index_month
from rag_pipeline.defs.next_generation import build_generation, build_generation_months, next_generation
from rag_pipeline.defs.repair_job import repair_month
from rag_pipeline.defs.resources import MonthRunResource, MonthRunsResource, PipelineResource
from rag_pipeline.defs.schedules import maintenance_jobs, schedules
from rag_pipeline.defs.search_quality import evaluate_search, search_quality_asset
from rag_pipeline.defs.sensors import (
    drain_vector_deletions,
    index_pending_months,
    invalid_sensor,
    sources_file_sensor,
    sync_sensor,
)
from rag_pipeline.defs.source_check import source_check
from rag_pipeline.defs.sweep_sensor import sweep_counts
from rag_pipeline.settings import load_settings
from rag_pipeline.sources.config import read_sources


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the code location.

    `resource_overrides` replaces resources by name, everywhere: `{"pipeline": pipeline}` uses an open pipeline.
    """
    overrides = resource_overrides or {}
    settings, pipeline = load_settings(), overrides.get("pipeline")
    file = read_sources(settings.sources)
    # A mistake in the file fails sensors that say so; the other sources and the maintenance go on.
    invalid = {entry.name: entry.message for entry in file.invalid if entry.name is not None}
    sources = [
        *source_assets(file.sources),
        *(invalid_source_asset(name, message) for name, message in invalid.items()),
    ]
    index_months = index_months_job(settings.vectors)
    return dg.Definitions(
        assets=[
            *sources,
            *index_assets(sources, settings.vectors),
            search_quality_asset(settings.vectors),
            next_generation,
        ],
        asset_checks=[*index_checks(settings.vectors), *(source_check(source) for source in file.sources)],
        jobs=[
            index_month,
            index_months,
            check_month,
            repair_month,
            build_generation,
            evaluate_search,
            *maintenance_jobs,
        ],
        schedules=schedules(settings),
        sensors=[
            *(sync_sensor(settings.sources, source, pipeline) for source in file.sources),
            *(invalid_sensor(settings.sources, name, message, pipeline) for name, message in invalid.items()),
            sources_file_sensor(settings.sources, {*invalid, *(source.name for source in file.sources)}),
            index_pending_months(index_months),
            build_generation_months,
            drain_vector_deletions,
            sweep_counts(settings.sweep_cron),
            alerts,
        ],
        resources={
            "pipeline": PipelineResource(),
            "month_run": MonthRunResource(),
            "month_runs": MonthRunsResource(),
            **overrides,
        },
        # In one process, the steps of a month share the embedder and the connections.
        executor=dg.in_process_executor,
    )
