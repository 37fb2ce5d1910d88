"""From observations to the outbox: alerts, states and the position in the event log, stored in one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag_pipeline.alerts.state_changes import changes
from rag_pipeline.printable import blanked
from rag_pipeline.stores.postgres import alert_outbox as table
from rag_pipeline.stores.postgres.alert_outbox import Alert, Subject
from rag_pipeline.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rag_pipeline.alerts.state_changes import Observation
    from rag_pipeline.stores.postgres.database import Database


def last_read_event(database: Database, log: str) -> int:
    """Return the id of the newest recorded event of a log; 0 if none was recorded."""
    with database.connection() as connection:
        return table.cursor(connection, log)


def record(
    database: Database, log: str, observations: Sequence[Observation], read_up_to: int | None = None
) -> int:
    """Compare observations with the stored states, store the changes, and return the number of new alerts.

    `log` names the Dagster storage within which event ids are unique. `read_up_to` is stored as the position in
    its event log. Events that were recorded before change nothing.
    """
    with database.connection() as connection:
        table.lock_recording(connection)
        stored = table.states(connection, {seen.subject for seen in observations})
        changed, alerts = changes(stored, observations, log)
        table.add_alerts(connection, [_storable(alert) for alert in alerts])
        table.save_states(connection, changed, alerts)
        if read_up_to is not None:
            table.advance_cursor(connection, log, read_up_to)
    return len(alerts)


def record_gone(database: Database, is_gone: Callable[[Subject], bool]) -> int:
    """Close the alerts of subjects that are gone, and return the number of new alerts, which say that they recovered.

    Otherwise they would stay open: no event reports an expired month or the sensor of a removed source again. Pass no
    observation of such a subject to `record`: an old one could open the alert again.
    """
    with database.connection() as connection:
        table.lock_recording(connection)
        stored = table.states(connection, {one for one, _ in table.failing(connection) if is_gone(one)})
        now = datetime.now(UTC)
        alerts = [
            Alert(
                event_key=f"gone:{':'.join(subject)}:{state.since.isoformat()}",
                subject=subject,
                state="recovered",
                at=now,
                since=state.since,
                description="",
                what_to_do="",
                path="/runs" if subject.partition else "/locations",
                repair_path="",
            )
            for subject, state in sorted(stored.items())
        ]
        table.add_alerts(connection, alerts)
        closed = {subject: replace(state, failing=False, since=now) for subject, state in stored.items()}
        table.save_states(connection, closed, alerts)
    return len(alerts)


def _storable(alert: Alert) -> Alert:
    """Return the alert without passwords (an error can quote a URL) and without characters that cannot be stored."""
    return replace(
        alert,
        description=mask_url(blanked(alert.description)),
        what_to_do=mask_url(blanked(alert.what_to_do)),
    )
