"""From observations to the outbox: what changed, stored in one transaction with how far the events are read."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rag_pipeline.alerts.state_changes import changes
from rag_pipeline.stores.postgres import alert_outbox as table
from rag_pipeline.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.alerts.state_changes import Observation
    from rag_pipeline.stores.postgres.alert_outbox import Alert
    from rag_pipeline.stores.postgres.database import Database

# PostgreSQL takes neither NUL nor half a surrogate pair, and no receiver wants control characters.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


def read_up_to(database: Database, log: str) -> int:
    """The id of the newest event of a log that was recorded; 0 where none was."""
    with database.connection() as connection:
        return table.cursor(connection, log)


def record(
    database: Database, log: str, observations: Sequence[Observation], read_up_to: int | None = None
) -> int:
    """Compare observations with the stored states, and store what changed; how many alerts that makes.

    `log` names the Dagster instance that the events' ids count in. `read_up_to` is stored as the place in its event
    log to go on from. Events that were recorded before may come again, and change nothing.
    """
    with database.connection() as connection:
        table.lock_recording(connection)
        stored = table.states(connection, {seen.subject for seen in observations})
        changed, alerts = changes(stored, observations, log)
        table.add_alerts(connection, [_fit_to_store(alert) for alert in alerts])
        table.save_states(connection, changed, alerts)
        if read_up_to is not None:
            table.advance_cursor(connection, log, read_up_to)
    return len(alerts)


def _fit_to_store(alert: Alert) -> Alert:
    """Without what a database or a reader should not get: an error may quote a URL with its password."""
    return replace(
        alert,
        description=mask_url(_UNPRINTABLE.sub(" ", alert.description)),
        counts={name: count for name, count in alert.counts.items() if math.isfinite(count)},
    )
