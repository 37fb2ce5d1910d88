"""From the outbox to the receivers.

Each receiver gets each alert once and in order, independently of the others. The alerts of a message are stored
before it is sent, and marked delivered when the receiver has accepted it. A process that dies in between, or an
answer that is lost, makes the same message go out again, to a webhook with the same header `Idempotency-Key`; otherwise
delivery is exactly once.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rag_pipeline.alerts.messages import group, message_key, render
from rag_pipeline.errors import BusyError
from rag_pipeline.stores.postgres import alert_deliveries as table
from rag_pipeline.stores.postgres import alert_outbox as outbox
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.alerts.messages import Message
    from rag_pipeline.alerts.receivers import Receiver
    from rag_pipeline.stores.postgres.database import Database

RETENTION = timedelta(days=30)
_GROUPED_ALERTS = 500
_MESSAGES_PER_CALL = 10
_FIRST_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=15)


@dataclass
class DeliveryResult:
    """What one call of `deliver` did."""

    messages: int = 0
    refused: list[str] = field(default_factory=list)
    """The receivers that did not accept a message, without their secrets."""
    pending: int = 0
    """Alerts not accepted yet, counted once per receiver."""
    busy: bool = False
    """Another process is delivering; this call did nothing."""


def deliver(
    database: Database,
    receivers: Sequence[Receiver],
    ui_url: str,
    deadline: float,
    now: datetime | None = None,
) -> DeliveryResult:
    """Send pending alerts: up to ten messages per receiver, none started after `deadline` (`time.monotonic()`).

    After a refusal a receiver is retried in 30 s, then after twice as long each time, up to 15 min. Alerts older
    than `RETENTION` are deleted, sent or not, unless their subject is still failing.
    """
    now = now or datetime.now(UTC)
    with ExitStack() as held:
        try:
            held.enter_context(advisory_lock(database, "alerts delivery", wait_seconds=0))
        except BusyError:
            return DeliveryResult(busy=True)
        result = DeliveryResult()
        with database.connection() as connection:
            outbox.delete_older_than(connection, now - RETENTION)
            table.set_receivers(connection, [receiver.digest for receiver in receivers])
            due = table.due(connection, now)
        for receiver in receivers:
            if receiver.digest in due:
                _deliver_to(database, receiver, ui_url, deadline, now, result)
        with database.connection() as connection:
            result.pending = sum(table.undelivered(connection, receiver.digest) for receiver in receivers)
        return result


def _deliver_to(
    database: Database, receiver: Receiver, ui_url: str, deadline: float, now: datetime, result: DeliveryResult
) -> None:
    for _ in range(_MESSAGES_PER_CALL):
        if time.monotonic() >= deadline:
            return
        message = _next_message(database, receiver, ui_url)
        if message is None:
            return
        if receiver.send(message):
            with database.connection() as connection:
                table.mark_accepted(connection, receiver.digest, message.key, now)
            result.messages += 1
            continue
        with database.connection() as connection:
            pause = min(
                _FIRST_PAUSE * 2 ** min(table.consecutive_failures(connection, receiver.digest), 10),
                _LONGEST_PAUSE,
            )
            table.mark_refused(connection, receiver.digest, now + pause)
        result.refused.append(str(receiver))
        return


def _next_message(database: Database, receiver: Receiver, ui_url: str) -> Message | None:
    """Return the oldest message not accepted yet, or a new one; None if nothing is due."""
    with database.connection() as connection:
        planned = table.planned(connection, receiver.digest)
        if planned is None:
            for alerts in group(table.unplanned(connection, receiver.digest, _GROUPED_ALERTS)):
                table.plan(connection, receiver.digest, message_key(alerts), alerts)
            planned = table.planned(connection, receiver.digest)
    if planned is None:
        return None
    key, alerts = planned
    return render(alerts, ui_url, key)
