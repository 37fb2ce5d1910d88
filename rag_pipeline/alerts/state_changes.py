"""State changes: which observations change a subject's state. Pure functions; rereading an event changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.alert_outbox import Alert, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from rag_pipeline.stores.postgres.alert_outbox import AlertState, Subject


@dataclass(frozen=True)
class Observation:
    """One event that shows a subject as healthy or failing."""

    subject: Subject
    event_id: int
    """Increases with time among the events of one subject."""
    passed: bool
    at: datetime
    warning: bool = False
    """Not passed, but only a warning."""
    description: str = ""
    """The problem, on one line."""
    what_to_do: str = ""
    path: str = ""
    """The page in the UI that shows the event, as a path from its root."""
    repair_path: str = ""
    """The page of the job that repairs it; empty if none does."""
    part: str = ""
    """Which part of the event it is, if one event shows several subjects."""


def changes(
    states: Mapping[Subject, State], observations: Iterable[Observation], log: str
) -> tuple[dict[Subject, State], list[Alert]]:
    """Return the states that change, and one alert per change in the order of the events.

    A subject without a stored state is healthy. An event that is not newer than the one that set the state was
    read before and is skipped. All later events agreed with the state, so reading them again changes nothing
    either.
    """
    changed: dict[Subject, State] = {}
    alerts: list[Alert] = []
    for seen in sorted(observations, key=lambda observation: observation.event_id):
        state = changed.get(seen.subject) or states.get(seen.subject)
        if state is not None and state.log == log and seen.event_id <= state.event_id:
            continue
        if seen.passed is not (state is not None and state.failing):
            continue
        since = state.since if seen.passed and state is not None else seen.at
        alerts.append(
            Alert(
                event_key=f"{log}:{seen.subject.kind}:{seen.event_id}" + (f":{seen.part}" if seen.part else ""),
                subject=seen.subject,
                state=_state(seen),
                at=seen.at,
                since=since,
                description=seen.description,
                what_to_do=seen.what_to_do,
                path=seen.path,
                repair_path=seen.repair_path,
            )
        )
        changed[seen.subject] = State(not seen.passed, seen.at, log, seen.event_id)
    return changed, alerts


def _state(seen: Observation) -> AlertState:
    if seen.passed:
        return "recovered"
    return "warning" if seen.warning else "failing"
