"""`alert_states`, `alert_outbox` and `alert_cursors`: what is failing, what is to be told, how far events are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from rag_pipeline.stores.postgres.database import named, value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rag_pipeline.stores.postgres.database import Connection

SubjectKind = Literal["check", "run", "sensor", "schedule"]
AlertState = Literal["failing", "warning", "recovered"]

ALERT_COLUMNS = "event_key, kind, name, partition, state, occurred_at, since, details"


class Subject(NamedTuple):
    """What fails and recovers: a check of a month, a job of a month, a sensor."""

    kind: SubjectKind
    name: str
    """As a person would call it, such as `vectors_verified on dense_collection`."""
    partition: str
    """Dagster's partition key; empty where there is none."""


@dataclass(frozen=True)
class State:
    """The last known state of a subject."""

    failing: bool
    since: datetime
    log: str
    """The log that `event_id` counts in: a new Dagster instance begins at 1 again."""
    event_id: int


@dataclass(frozen=True)
class Alert:
    """A change that people have to be told of."""

    event_key: str
    """Names the event in the log: told once, however often it is read."""
    subject: Subject
    state: AlertState
    at: datetime
    since: datetime
    """When the failing began, for a recovery too."""
    description: str
    counts: Mapping[str, float]
    path: str


def cursor(connection: Connection, log: str) -> int:
    """The id of the newest event that was read from a log; 0 where none was."""
    return value(connection, "SELECT event_id FROM alert_cursors WHERE log = %s", (log,)) or 0


def lock_recording(connection: Connection) -> None:
    """One recording at a time, until the end of the transaction: states are compared, then changed."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('alerts recording', 0))")


def advance_cursor(connection: Connection, log: str, event_id: int) -> None:
    """Remember how far a log was read; never backwards."""
    connection.execute(
        """
        INSERT INTO alert_cursors AS c (log, event_id) VALUES (%s, %s)
        ON CONFLICT (log) DO UPDATE SET event_id = greatest(c.event_id, excluded.event_id)
        """,
        (log, event_id),
    )


def states(connection: Connection, subjects: Collection[Subject]) -> dict[Subject, State]:
    """The stored states of these subjects; one that never failed has none."""
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
    """Put alerts into the outbox, in their order; one whose event is there already is left out."""
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
                            "counts": dict(alert.counts),
                            "path": alert.path,
                        }
                    ),
                )
                for alert in alerts
            ],
        )


def save_states(connection: Connection, changed: Mapping[Subject, State], alerts: Iterable[Alert]) -> None:
    """Store the states that changed, each with the alert that tells of it."""
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
    """What is failing now and since when, the longest first."""
    rows = named(
        connection,
        "SELECT kind, name, partition, since FROM alert_states WHERE failing ORDER BY since, name, partition",
    )
    return [(Subject(row.kind, row.name, row.partition), row.since) for row in rows]


def forget_old(connection: Connection, before: datetime) -> int:
    """Drop alerts recorded before a moment, but for those that tell of what is failing still; how many."""
    return connection.execute(
        """
        DELETE FROM alert_outbox o WHERE recorded_at < %s
        AND NOT EXISTS (SELECT FROM alert_states s WHERE s.alert = o.id AND s.failing)
        """,
        (before,),
    ).rowcount


def _columns(subjects: Collection[Subject]) -> tuple[list[str], list[str], list[str]]:
    return [s.kind for s in subjects], [s.name for s in subjects], [s.partition for s in subjects]
