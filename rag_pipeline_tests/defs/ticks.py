"""Single ticks of the code location's sensors and schedules."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.defs.month_partitions import MONTHS_TAG
from rag_pipeline.months import Month


def requested_months(tick: dg.SensorExecutionData) -> list[Month]:
    """The months that a tick requests runs of, in their order, alone or together."""
    requests = tick.run_requests or ()
    alone = [Month.parse(request.partition_key) for request in requests if request.partition_key]
    together = [Month.parse(name) for request in requests for name in request.tags.get(MONTHS_TAG, "").split()]
    return sorted(alone + together)


def tick_of_schedule(
    defs: dg.Definitions, name: str, instance: dg.DagsterInstance | None = None
) -> dg.ScheduleExecutionData:
    """Evaluate a schedule, with the resources that Dagster's daemon gives it."""
    repository = defs.get_repository_def()
    with dg.build_schedule_context(
        instance=instance,
        instance_ref=instance and instance.get_ref(),
        scheduled_execution_time=datetime(2024, 6, 1, 18, tzinfo=UTC),
        repository_def=repository,
        resources=repository.get_top_level_resources(),
    ) as context:
        return defs.resolve_schedule_def(name).evaluate_tick(context)


def tick_of_sensor(
    defs: dg.Definitions, name: str, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorExecutionData:
    """Evaluate a sensor, with the resources that Dagster's daemon gives it."""
    repository = defs.get_repository_def()
    sensor = defs.resolve_sensor_def(name)
    resources = repository.get_top_level_resources()
    with dg.build_sensor_context(
        instance=instance,
        instance_ref=instance and instance.get_ref(),
        cursor=cursor,
        repository_def=repository,
        resources={key: resources[key] for key in sensor.required_resource_keys},
    ) as context:
        return sensor.evaluate_tick(context)
