"""`alert_states`, `alert_outbox` and `alert_cursors`: what is failing, what to report, how far events are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from rag_pipeline.stores.postgres.advisory_locks import lock_key
from rag_pipeline.stores.postgres.database import named, value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rag_pipeline.stores.postgres.database import Connection

SubjectKind = Literal["check", "run", "sensor", "schedule"]
AlertState = Literal["failing", "warning", "recovered"]

_RECORDING = lock_key("'alerts recording'")
ALERT_COLUMNS = "event_key, kind, name, partition, state, occurred_at, since, details"


class Subject(NamedTuple):
    """What fails and recovers: a check of a month, a job of a month, a sensor."""

    kind: SubjectKind
    name: str
    """As a reader would call it, such as `vectors_verified on dense_collection`."""
    partition: str
    """Dagster's partition key; empty without one."""


@dataclass(frozen=True)
class State:
    """The last known state of a subject."""

    failing: bool
    since: datetime
    log: str
    """The event log that `event_id` belongs to: a new Dagster instance starts at 1 again."""
    event_id: int


@dataclass(frozen=True)
class Alert:
    """A change to be reported."""

    event_key: str
    """Identifies the event in the log: it is reported once, however often it is read."""
    subject: Subject
    state: AlertState
    at: datetime
    since: datetime
    """When the failure began, for a recovery too."""
    description: str
    what_to_do: str
    path: str
    """The page in the UI that shows the event, as a path from its root."""
    repair_path: str
    """The page of the job that repairs it; empty if none does."""


def cursor(connection: Connection, log: str) -> int:
    """Return the id of the newest event read from a log, or 0."""
    return value(connection, "SELECT event_id FROM alert_cursors WHERE log = %s", (log,)) or 0


def lock_recording(connection: Connection) -> None:
    """Keep other recordings out until the end of the transaction: states are compared, then changed."""
    connection.execute(f"SELECT pg_advisory_xact_lock({_RECORDING})")


def advance_cursor(connection: Connection, log: str, event_id: int) -> None:
    """Store how far a log has been read; never moves backwards."""
    connection.execute(
        """
        INSERT INTO alert_cursors AS c (log, event_id) VALUES (%s, %s)
        ON CONFLICT (log) DO UPDATE SET event_id = greatest(c.event_id, excluded.event_id)
        """,
        (log, event_id),
    )


def states(connection: Connection, subjects: Collection[Subject]) -> dict[Subject, State]:
    """Return the stored states of these subjects; one that never failed has none."""
    rows = named(
        connection,
        """
        SELECT s.kind, s.name, s.partition, s.failing, s.since, s.log, s.event_id FROM alert_states s
        JOIN unnest(%s::text[], %s::text[], %s::text[]) AS asked(kind, name, partition)
            USING (kind, name, partition)
        """,
        _columns(subjects),
    )
    return {
        Subject(row.kind, row.name, row.partition): State(row.failing, row.since, row.log, row.event_id)
        for row in rows
    }


def add_alerts(connection: Connection, alerts: Sequence[Alert]) -> None:
    """Put alerts into the outbox in their order, without those whose event is there already."""
    with connection.cursor() as batch:
        batch.executemany(
            f"""
            INSERT INTO alert_outbox ({ALERT_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s::jsonb)
            ON CONFLICT (event_key) DO NOTHING
            """,
            [
                (
                    alert.event_key,
                    *alert.subject,
                    alert.state,
                    alert.at,
                    alert.since,
                    json.dumps(
                        {
                            "description": alert.description,
                            "what_to_do": alert.what_to_do,
                            "path": alert.path,
                            "repair_path": alert.repair_path,
                        }
                    ),
                )
                for alert in alerts
            ],
        )


def save_states(connection: Connection, changed: Mapping[Subject, State], alerts: Iterable[Alert]) -> None:
    """Store the states that changed, each with the alert that reports it."""
    newest = {alert.subject: alert.event_key for alert in alerts}
    with connection.cursor() as batch:
        batch.executemany(
            """
            INSERT INTO alert_states (kind, name, partition, failing, since, log, event_id, alert)
            VALUES (%s, %s, %s, %s, %s, %s, %s, (SELECT id FROM alert_outbox WHERE event_key = %s))
            ON CONFLICT (kind, name, partition) DO UPDATE SET failing = excluded.failing, since = excluded.since,
                log = excluded.log, event_id = excluded.event_id, alert = excluded.alert
            """,
            [
                (*subject, state.failing, state.since, state.log, state.event_id, newest[subject])
                for subject, state in changed.items()
            ],
        )


def failing(connection: Connection) -> list[tuple[Subject, datetime]]:
    """Return what is failing now and since when, the longest first."""
    rows = named(
        connection,
        "SELECT kind, name, partition, since FROM alert_states WHERE failing ORDER BY since, name, partition",
    )
    return [(Subject(row.kind, row.name, row.partition), row.since) for row in rows]


def delete_older_than(connection: Connection, before: datetime) -> int:
    """Delete alerts recorded before a moment, except those of what is still failing; return their number."""
    return connection.execute(
        """
        DELETE FROM alert_outbox o WHERE recorded_at < %s
        AND NOT EXISTS (SELECT FROM alert_states s WHERE s.alert = o.id AND s.failing)
        """,
        (before,),
    ).rowcount


def _columns(subjects: Collection[Subject]) -> tuple[list[str], list[str], list[str]]:
    return [s.kind for s in subjects], [s.name for s in subjects], [s.partition for s in subjects]
