"""From alerts to messages: which alerts share a message, and the plain text of each message. Pure functions.

A body has at most 1,900 characters, which the common chat services accept in one piece. If half of a split message
were refused, the whole of it would be sent again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.alert_outbox import Alert, AlertState, SubjectKind

BODY_CHARACTERS = 1900
_TITLE_CHARACTERS = 160
_DETAIL_CHARACTERS = 400
_SECTIONS = 6
_PARTITIONS_NAMED = 60

_TITLES: dict[AlertState, str] = {"failing": "Failing", "warning": "Warning", "recovered": "Recovered"}
_PLURALS: dict[SubjectKind, str] = {"check": "checks", "run": "jobs", "sensor": "sensors", "schedule": "schedules"}


@dataclass(frozen=True)
class Message:
    """A message to a receiver, in plain text."""

    title: str
    body: str
    state: AlertState


def group(alerts: Sequence[Alert]) -> list[list[Alert]]:
    """Group alerts by kind and state, keeping the alerts of each subject in order.

    A subject that failed, recovered and failed again since the last message is in three messages, in that order.
    """
    nth: Counter[object] = Counter()
    groups: dict[tuple[int, SubjectKind, AlertState], list[Alert]] = {}
    for alert in alerts:
        nth[alert.subject] += 1
        groups.setdefault((nth[alert.subject], alert.subject.kind, alert.state), []).append(alert)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def message_key(alerts: Sequence[Alert]) -> str:
    """Return a message's idempotency key: the same alerts have the same key."""
    keys = "\n".join(sorted(alert.event_key for alert in alerts))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]


def render(alerts: Sequence[Alert], ui_url: str, key: str) -> Message:
    """Return the message for alerts of one kind and state: names and months first, then details if they fit."""
    kind, state = alerts[0].subject.kind, alerts[0].state
    by_name = sorted(alerts, key=lambda alert: (alert.subject.name, alert.subject.partition))
    sections = [list(section) for _, section in groupby(by_name, key=lambda alert: alert.subject.name)]
    shown = sections[:_SECTIONS]
    footer = f"Message {key}. A second message with this key is a duplicate."
    if len(sections) > len(shown):
        footer = f"… and {len(sections) - len(shown)} more {_PLURALS[kind]}: see {ui_url}\n\n{footer}"
    paragraphs = _paragraphs(shown, ui_url, BODY_CHARACTERS - len(footer) - 2 * len(shown))
    return Message(_title(sections, state), "\n\n".join([*paragraphs, footer]), state)


def _paragraphs(sections: Sequence[Sequence[Alert]], ui_url: str, room: int) -> list[str]:
    """Return one paragraph per subject name: its heading, then details, taken in turn from all sections."""
    paragraphs = [_heading(section, ui_url, room // len(sections)) for section in sections]
    room -= sum(len(line) + 1 for lines in paragraphs for line in lines)
    for details in zip_longest(*([_detail(alert) for alert in section] for section in sections)):
        for lines, detail in zip(paragraphs, details, strict=True):
            if detail and len(detail) + 1 <= room:
                lines.append(detail)
                room -= len(detail) + 1
    return ["\n".join(lines) for lines in paragraphs]


def _title(sections: Sequence[Sequence[Alert]], state: AlertState) -> str:
    first = sections[0]
    if len(sections) > 1:
        subject = f"{len(sections)} {_PLURALS[first[0].subject.kind]}"
        partitions = {alert.subject.partition for section in sections for alert in section} - {""}
        where = f", {_partition_text(min(partitions))}" if len(partitions) == 1 else f", {len(partitions)} months"
        subject += where if partitions else ""
    else:
        subject = _subject_text(first)
    return _cut(f"rag-pipeline: {_TITLES[state]}: {subject}", _TITLE_CHARACTERS)


def _subject_text(section: Sequence[Alert]) -> str:
    name, partition = section[0].subject.name, section[0].subject.partition
    if len(section) > 1:
        return f"{name}, {len(section)} months"
    return f"{name}, {_partition_text(partition)}" if partition else name


def _heading(section: Sequence[Alert], ui_url: str, room: int) -> list[str]:
    """Return the lines with the name, since when it fails or when it recovered, the months, and the link."""
    first = section[0]
    since = _timestamp(min(alert.since for alert in section))
    if first.state == "recovered":
        when = f"recovered at {_timestamp(max(alert.at for alert in section))} after failing since {since}"
    else:
        when = f"{first.state} since {since}"
    lines = [f"{_cut(first.subject.name, 120)}: {when}", _cut(f"{ui_url}{first.path}", 300)]
    partitions = [_partition_text(alert.subject.partition) for alert in section if alert.subject.partition]
    if partitions:
        named = ", ".join(partitions[:_PARTITIONS_NAMED])
        if len(partitions) > _PARTITIONS_NAMED:
            named += f" and {len(partitions) - _PARTITIONS_NAMED} more, up to {partitions[-1]}"
        lines.insert(1, _cut(named, max(room - sum(map(len, lines)) - len(lines), 20)))
    return lines


def _detail(alert: Alert) -> str:
    counts = ", ".join(
        f"{name} {count:,.0f}" if count == int(count) else f"{name} {count:,g}"
        for name, count in sorted(alert.counts.items())
    )
    text = "; ".join(part for part in (counts, alert.description) if part)
    partition = _partition_text(alert.subject.partition)
    return _cut(f"- {partition}: {text}" if partition else text, _DETAIL_CHARACTERS) if text else ""


def _partition_text(partition: str) -> str:
    """Return a month as `YYYY-MM`; any other partition key unchanged."""
    try:
        return str(Month.parse(partition))
    except ConfigError:
        return partition


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
