"""What goes in and out of the alerts: observations, states, alerts, messages. Plain data, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

Kind = Literal["check", "run", "sensor", "schedule"]
AlertState = Literal["failing", "warning", "recovered"]


class Subject(NamedTuple):
    """What fails and recovers: a check of a month, a job of a month, a sensor."""

    kind: Kind
    name: str
    """As a person would call it, such as `vectors_verified on dense_collection`."""
    partition: str
    """Dagster's partition key; empty where there is none."""


@dataclass(frozen=True)
class Observation:
    """One event that says whether a subject is well."""

    subject: Subject
    event_id: int
    """Grows with time among the events of a subject."""
    passed: bool
    at: datetime
    warning: bool = False
    """Not passed, and no more than a warning."""
    description: str = ""
    """What is wrong and what to do, on one line."""
    counts: Mapping[str, float] = field(default_factory=dict)
    path: str = ""
    """Where the UI shows it, from its root on."""


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


@dataclass(frozen=True)
class Message:
    """What a receiver gets, as plain text."""

    title: str
    body: str
    state: AlertState
