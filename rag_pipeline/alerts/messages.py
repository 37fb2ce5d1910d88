"""From alerts to messages: which alerts share a message, and the plain text of each message. Pure functions.

A body has at most 1,900 characters, which the common chat services accept in one piece. If half of a split message
were refused, the whole of it would be sent again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.alert_outbox import Alert, AlertState, SubjectKind

BODY_CHARACTERS = 1900
_TITLE_CHARACTERS = 160
_FOOTER_CHARACTERS = 300
_DETAILS = ((3, 400), (3, 200), (1, 200), (1, 80))
"""(months, characters of the description of each), the most detailed first."""
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
    key: str = ""
    """The same for a message that is sent again; programs that receive it get it in a header."""


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
    """Return the message for alerts of one kind and state: a paragraph per subject, as detailed as fits."""
    kind, state = alerts[0].subject.kind, alerts[0].state
    by_name = sorted(alerts, key=lambda alert: (alert.subject.name, alert.subject.partition))
    sections = [list(section) for _, section in groupby(by_name, key=lambda alert: alert.subject.name)]
    paragraphs = []
    room = BODY_CHARACTERS - _FOOTER_CHARACTERS
    for number, section in enumerate(sections[:_SECTIONS]):
        paragraph = _paragraph(section, ui_url, room // (min(len(sections), _SECTIONS) - number))
        room -= len(paragraph) + 2
        paragraphs.append(paragraph)
    if len(sections) > _SECTIONS:
        footer = f"And {len(sections) - _SECTIONS} more {_PLURALS[kind]}: see {ui_url}"
        paragraphs.append(_cut(footer, _FOOTER_CHARACTERS))
    return Message(_title(sections, state), "\n\n".join(paragraphs), state, key)


def _paragraph(section: Sequence[Alert], ui_url: str, room: int) -> str:
    """Return what fits of a subject: its name and times and a link always, problems and advice as far as possible."""
    write = _month_lines if len(section) == 1 else _months_lines
    for months, characters in _DETAILS if section[0].state != "recovered" else ():
        text = "\n".join(write(section, ui_url, months, characters))
        if len(text) <= room:
            return text
    link = _cut(f"{ui_url}{section[0].path}", 300)
    names = f"\n{_listed(section)}" if len(section) > 1 else ""
    return f"{_cut(_heading(section) + names, max(room - len(link) - 1, 20))}\n{link}"


def _month_lines(section: Sequence[Alert], ui_url: str, months: int, characters: int) -> Iterator[str]:
    (alert,) = section
    yield _heading(section)
    if alert.description:
        yield _cut(alert.description, characters)
    if alert.what_to_do:
        yield f"What to do: {alert.what_to_do}."
    yield f"Details: {ui_url}{alert.path}"
    if alert.repair_path:
        yield f"Repair it in the UI: {ui_url}{alert.repair_path}/playground/setup?{_partition_tag(alert)}"


def _months_lines(section: Sequence[Alert], ui_url: str, months: int, characters: int) -> Iterator[str]:
    yield _heading(section)
    for alert in section[:months]:
        yield f"{_partition_text(alert.subject.partition)}: {_cut(alert.description, characters)}"
        yield f"{ui_url}{alert.path}"
    if section[months:]:
        yield f"Also {_listed(section[months:])}"
    if repair_path := section[0].repair_path:
        yield "What to do: run `rag-pipeline repair`, or start a backfill of these months:"
        yield f"{ui_url}{repair_path}/partitions"
    elif section[0].what_to_do and len({alert.what_to_do for alert in section}) == 1:
        yield f"What to do: {section[0].what_to_do}."


def _partition_tag(alert: Alert) -> str:
    """Return the query with which the launchpad of Dagster's UI opens with the alert's month."""
    return urlencode({"tags[0][key]": "dagster/partition", "tags[0][value]": alert.subject.partition})


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


def _heading(section: Sequence[Alert]) -> str:
    """Return the line that says what fails, and since when, or when it recovered."""
    since = _timestamp(min(alert.since for alert in section))
    if section[0].state == "recovered":
        when = f"recovered at {_timestamp(max(alert.at for alert in section))}, after failing since {since}"
    else:
        when = f"{section[0].state} since {since}"
    return f"{_cut(_subject_text(section), 140)}: {when}"


def _listed(section: Sequence[Alert]) -> str:
    names = [_partition_text(alert.subject.partition) for alert in section]
    more = len(names) - _PARTITIONS_NAMED
    return ", ".join(names[:_PARTITIONS_NAMED]) + (f" and {more} more, up to {names[-1]}" if more > 0 else "")


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
