"""The sensor that sends alerts: it polls Dagster's log and ticks, and hands them to the library."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.alerts.delivery import deliver
from rag_pipeline.alerts.receivers import receivers
from rag_pipeline.alerts.recording import last_read_event, record, record_gone
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.defs.event_log import log_name, read_events, read_ticks
from rag_pipeline.defs.gone_subjects import GoneSubjects
from rag_pipeline.indexing.retention import oldest_kept_month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.sources.config import read_sources
from rag_pipeline.stores.postgres import generations, schema
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline.stores.postgres.database import Database

_READ_SECONDS = 20
_SEND_SECONDS = 20


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notifies the receivers in RAG_ALERT_URLS once when a check, a run, a sensor or a schedule starts "
    "failing, and once when it recovers.",
)
def alerts(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SkipReason:
    """Record what changed, then send what is due."""
    if context.instance.event_log_storage.is_run_sharded:
        return dg.SkipReason("Alerts need Dagster's storage in PostgreSQL: see dagster.yaml")
    database = pipeline.stores.database
    listed = receivers(pipeline.settings)
    is_gone = _gone_subjects(context, pipeline)
    recorded = _record_ticks(context, database, is_gone) + _record_events(context.instance, pipeline, is_gone)
    recorded += record_gone(database, is_gone)
    sent = deliver(database, listed, pipeline.settings.ui_url, time.monotonic() + _SEND_SECONDS)
    for name in sent.refused:
        context.log.warning(f"{name} did not accept an alert; it will be retried after a pause")
    if not listed:
        return dg.SkipReason(f"new alerts: {recorded}; RAG_ALERT_URLS is not set, so nobody is notified")
    if sent.busy:
        return dg.SkipReason(f"{recorded} alerts recorded; another process is sending")
    return dg.SkipReason(
        f"{recorded} alerts recorded, {sent.messages} messages sent, {sent.pending} alerts pending"
        + (f"; not accepted by {', '.join(sent.refused)}" if sent.refused else "")
    )


def _gone_subjects(context: dg.SensorEvaluationContext, pipeline: Pipeline) -> Callable[[Subject], bool]:
    if context.repository_def is None or context.code_location_origin is None:
        return lambda subject: False  # evaluated outside a code location
    with pipeline.stores.database.connection() as connection:
        built = [row.id for row in generations.all_of_them(connection) if row.state == "building"]
    return GoneSubjects(
        context.repository_def,
        context.code_location_origin.location_name,
        read_sources(pipeline.settings.sources),
        schema.existing_months(pipeline.stores.database),
        oldest_kept_month(pipeline.settings),
        built,
    )


def _record_ticks(
    context: dg.SensorEvaluationContext, database: Database, is_gone: Callable[[Subject], bool]
) -> int:
    """Record the ticks since the cursor; return the number of new alerts. A tick that is read twice changes nothing."""
    page = read_ticks(context.instance, int(context.cursor) if context.cursor else None, datetime.now(UTC))
    recorded = record(database, log_name(context.instance), _existing(page.observations, is_gone))
    context.update_cursor(str(page.read_up_to))
    return recorded


def _record_events(instance: dg.DagsterInstance, pipeline: Pipeline, is_gone: Callable[[Subject], bool]) -> int:
    """Bring the outbox up to date with the event log within the time of a tick; return the number of new alerts."""
    database, built = pipeline.stores.database, pipeline.settings.vectors
    log = log_name(instance)
    recorded = 0
    deadline = time.monotonic() + _READ_SECONDS
    more = True
    while more and time.monotonic() < deadline:
        page = read_events(instance, last_read_event(database, log), datetime.now(UTC), built)
        recorded += record(database, log, _existing(page.observations, is_gone), page.read_up_to)
        more = page.more
    return recorded


def _existing(observations: Sequence[Observation], is_gone: Callable[[Subject], bool]) -> list[Observation]:
    """Leave out what is gone: the last events are read again, and would open its alerts again."""
    return [seen for seen in observations if not is_gone(seen.subject)]
