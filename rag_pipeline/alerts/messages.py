"""From alerts to messages: which ones go together, and the plain text of each. Pure functions.

A message stays under 1,900 characters, title apart, which the common chat services take whole: one that had to be
split could arrive by halves, and would then come again.
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
    """What a receiver gets, as plain text."""

    title: str
    body: str
    state: AlertState


def group(alerts: Sequence[Alert]) -> list[list[Alert]]:
    """Alerts of one kind and state together, in an order that tells each subject's story right.

    A subject that failed, recovered and failed again before anybody was told is in three messages, in that order.
    """
    nth: Counter[object] = Counter()
    groups: dict[tuple[int, SubjectKind, AlertState], list[Alert]] = {}
    for alert in alerts:
        nth[alert.subject] += 1
        groups.setdefault((nth[alert.subject], alert.subject.kind, alert.state), []).append(alert)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def message_key(alerts: Sequence[Alert]) -> str:
    """A message's idempotency key: the same alerts have the same key."""
    keys = "\n".join(sorted(alert.event_key for alert in alerts))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]


def render(alerts: Sequence[Alert], ui_url: str, key: str) -> Message:
    """One message for alerts of one kind and state: all names and months first, then details while there is room."""
    kind, state = alerts[0].subject.kind, alerts[0].state
    by_name = sorted(alerts, key=lambda alert: (alert.subject.name, alert.subject.partition))
    sections = [list(section) for _, section in groupby(by_name, key=lambda alert: alert.subject.name)]
    shown = sections[:_SECTIONS]
    footer = f"Message {key}; if it comes twice, it is the same."
    if len(sections) > len(shown):
        footer = f"… and {len(sections) - len(shown)} more {_PLURALS[kind]}: see {ui_url}\n\n{footer}"
    room = BODY_CHARACTERS - len(footer) - 2 * len(shown)
    paragraphs = [_heading(section, ui_url, room // len(shown)) for section in shown]
    room -= sum(len(line) + 1 for lines in paragraphs for line in lines)
    for details in zip_longest(*([_detail(alert) for alert in section] for section in shown)):
        for lines, detail in zip(paragraphs, details, strict=True):
            if detail and len(detail) + 1 <= room:
                lines.append(detail)
                room -= len(detail) + 1
    body = "\n\n".join("\n".join(lines) for lines in paragraphs)
    return Message(_title(sections, state), f"{body}\n\n{footer}", state)


def _title(sections: Sequence[Sequence[Alert]], state: AlertState) -> str:
    first = sections[0]
    if len(sections) > 1:
        subject = f"{len(sections)} {_PLURALS[first[0].subject.kind]}"
        partitions = {alert.subject.partition for section in sections for alert in section} - {""}
        where = f", {_shown(min(partitions))}" if len(partitions) == 1 else f", {len(partitions)} months"
        subject += where if partitions else ""
    else:
        subject = _what(first)
    return _cut(f"rag-pipeline: {_TITLES[state]}: {subject}", _TITLE_CHARACTERS)


def _what(section: Sequence[Alert]) -> str:
    name, partition = section[0].subject.name, section[0].subject.partition
    if len(section) > 1:
        return f"{name}, {len(section)} months"
    return f"{name}, {_shown(partition)}" if partition else name


def _heading(section: Sequence[Alert], ui_url: str, room: int) -> list[str]:
    """What fails or recovered, since when, in which months, and the link."""
    first = section[0]
    since = _moment(min(alert.since for alert in section))
    if first.state == "recovered":
        when = f"well since {_moment(max(alert.at for alert in section))}, had failed since {since}"
    else:
        when = f"{'a warning' if first.state == 'warning' else 'failing'} since {since}"
    lines = [f"{_cut(first.subject.name, 120)}: {when}", _cut(f"{ui_url}{first.path}", 300)]
    partitions = [_shown(alert.subject.partition) for alert in section if alert.subject.partition]
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
    words = "; ".join(part for part in (counts, alert.description) if part)
    partition = _shown(alert.subject.partition)
    return _cut(f"- {partition}: {words}" if partition else words, _DETAIL_CHARACTERS) if words else ""


def _shown(partition: str) -> str:
    """A month as people write it; any other partition as it is."""
    try:
        return str(Month.parse(partition))
    except ConfigError:
        return partition


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
