"""`alert_receivers` and `alert_deliveries`: who is notified, and which alerts went to whom in which message.

A receiver is identified by the digest of its URL. Receivers are independent: a message that one has not accepted
does not hold back another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.stores.postgres.alert_outbox import ALERT_COLUMNS, Alert, Subject
from rag_pipeline.stores.postgres.database import dicts, value, values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection


def set_receivers(connection: Connection, receivers: Sequence[str]) -> None:
    """Add new receivers and delete those that are no longer listed.

    A new one gets the alerts recorded from now on, and those of what is still failing.
    """
    connection.execute("DELETE FROM alert_receivers WHERE receiver <> ALL(%s)", (list(receivers),))
    connection.execute(
        """
        INSERT INTO alert_receivers (receiver, after_alert)
        SELECT receiver, coalesce((SELECT max(id) FROM alert_outbox), 0) FROM unnest(%s::text[]) AS receiver
        ON CONFLICT (receiver) DO NOTHING
        """,
        (list(receivers),),
    )


def due(connection: Connection, now: datetime) -> set[str]:
    """Return the receivers to send to now: those without a recent failure."""
    query = "SELECT receiver FROM alert_receivers WHERE next_try_at IS NULL OR next_try_at <= %s"
    return set(values(connection, query, (now,)))


def planned(connection: Connection, receiver: str) -> tuple[str, list[Alert]] | None:
    """Return the key and the alerts of the oldest planned message that the receiver has not accepted."""
    rows = dicts(
        connection,
        f"""
        WITH open AS (
            SELECT message_key FROM alert_deliveries WHERE receiver = %(receiver)s AND delivered_at IS NULL
            ORDER BY turn LIMIT 1
        )
        SELECT d.message_key, {ALERT_COLUMNS} FROM alert_deliveries d
        JOIN open USING (message_key) JOIN alert_outbox o ON o.id = d.alert
        WHERE d.receiver = %(receiver)s AND d.delivered_at IS NULL ORDER BY o.id
        """,
        {"receiver": receiver},
    )
    return (rows[0]["message_key"], [_alert(row) for row in rows]) if rows else None


def unplanned(connection: Connection, receiver: str, limit: int) -> list[Alert]:
    """Return the oldest alerts for the receiver that are not in any of its messages yet."""
    rows = dicts(
        connection,
        f"""
        SELECT {ALERT_COLUMNS} FROM alert_outbox o
        WHERE (
            o.id > (SELECT after_alert FROM alert_receivers WHERE receiver = %(receiver)s)
            OR EXISTS (SELECT FROM alert_states s WHERE s.alert = o.id AND s.failing)
        )
        AND NOT EXISTS (SELECT FROM alert_deliveries d WHERE d.alert = o.id AND d.receiver = %(receiver)s)
        ORDER BY o.id LIMIT %(limit)s
        """,
        {"receiver": receiver, "limit": limit},
    )
    return [_alert(row) for row in rows]


def plan(connection: Connection, receiver: str, message_key: str, alerts: Sequence[Alert]) -> None:
    """Put alerts into one message to the receiver. It is sent unchanged until it is accepted."""
    connection.execute(
        """
        INSERT INTO alert_deliveries (alert, receiver, message_key)
        SELECT id, %s, %s FROM alert_outbox WHERE event_key = ANY(%s)
        """,
        (receiver, message_key, [alert.event_key for alert in alerts]),
    )


def mark_accepted(connection: Connection, receiver: str, message_key: str, now: datetime) -> None:
    """Record that the receiver has accepted a message."""
    connection.execute(
        "UPDATE alert_deliveries SET delivered_at = %s WHERE receiver = %s AND message_key = %s",
        (now, receiver, message_key),
    )
    connection.execute(
        "UPDATE alert_receivers SET failures = 0, next_try_at = NULL WHERE receiver = %s", (receiver,)
    )


def consecutive_failures(connection: Connection, receiver: str) -> int:
    """Return the number of failures since the receiver last accepted a message."""
    return value(connection, "SELECT failures FROM alert_receivers WHERE receiver = %s", (receiver,)) or 0


def mark_refused(connection: Connection, receiver: str, next_try_at: datetime) -> None:
    """Record a failure of the receiver; nothing is sent to it before `next_try_at`."""
    connection.execute(
        "UPDATE alert_receivers SET failures = failures + 1, next_try_at = %s WHERE receiver = %s",
        (next_try_at, receiver),
    )


def undelivered(connection: Connection, receiver: str) -> int:
    """Return the number of alerts that the receiver has not accepted yet."""
    return value(
        connection,
        """
        SELECT count(*) FROM alert_outbox o
        LEFT JOIN alert_deliveries d ON d.alert = o.id AND d.receiver = %(receiver)s
        WHERE d.delivered_at IS NULL AND (
            d.alert IS NOT NULL
            OR o.id > (SELECT after_alert FROM alert_receivers WHERE receiver = %(receiver)s)
            OR EXISTS (SELECT FROM alert_states s WHERE s.alert = o.id AND s.failing)
        )
        """,
        {"receiver": receiver},
    )


def _alert(row: dict[str, Any]) -> Alert:
    details = row["details"]
    return Alert(
        event_key=row["event_key"],
        subject=Subject(row["kind"], row["name"], row["partition"]),
        state=row["state"],
        at=row["occurred_at"],
        since=row["since"],
        description=details["description"],
        # Alerts recorded by older versions have neither of the two.
        what_to_do=details.get("what_to_do", ""),
        path=details["path"],
        repair_path=details.get("repair_path", ""),
    )
