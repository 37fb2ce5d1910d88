"""The sensor that tells people: it polls what happened, and hands over to the library."""

import time
from datetime import UTC, datetime

import dagster as dg

from rag_pipeline.alerts.delivery import deliver
from rag_pipeline.alerts.receivers import receivers
from rag_pipeline.alerts.recording import read_up_to, record
from rag_pipeline.defs.event_log import log_name, read_events, read_ticks
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres.database import Database

_READ_SECONDS = 20
_SEND_SECONDS = 20


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the receivers in RAG_ALERT_URLS when a check, a run, a sensor or a schedule starts failing, and "
    "when it recovers: once each.",
)
def alerts(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SkipReason:
    if context.instance.event_log_storage.is_run_sharded:
        return dg.SkipReason("Alerts need Dagster's storage in PostgreSQL: see dagster.yaml")
    database = pipeline.stores.database
    told = receivers(pipeline.settings)
    recorded = _record(context.instance, database)
    sent = deliver(database, told, pipeline.settings.ui_url.rstrip("/"), time.monotonic() + _SEND_SECONDS)
    for name in sent.refused:
        context.log.warning(f"{name} did not accept an alert; it is tried again after a pause")
    if not told:
        return dg.SkipReason(f"{recorded} alerts recorded; RAG_ALERT_URLS is not set, so nobody is told")
    if sent.busy:
        return dg.SkipReason(f"{recorded} alerts recorded; another process is sending")
    return dg.SkipReason(
        f"{recorded} alerts recorded, {sent.messages} messages sent, {sent.waiting} alerts waiting"
        + (f"; not accepted by {', '.join(sent.refused)}" if sent.refused else "")
    )


def _record(instance: dg.DagsterInstance, database: Database) -> int:
    """Bring the outbox up to what Dagster knows, as far as the time of a tick allows."""
    log = log_name(instance)
    recorded = record(database, log, read_ticks(instance))
    deadline = time.monotonic() + _READ_SECONDS
    more = True
    while more and time.monotonic() < deadline:
        page = read_events(instance, read_up_to(database, log), datetime.now(UTC))
        recorded += record(database, log, page.observations, page.read_up_to)
        more = page.more
    return recorded
