"""State changes: the start and the end of a failure, once each, however the events are read."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.alerts.state_changes import Observation, changes
from rag_pipeline.stores.postgres.alert_outbox import Subject

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECTS = [
    Subject("check", "verified on dense", "2024-01-01"),
    Subject("check", "verified on dense", "2024-02-01"),
]


def seen(number: int, passed: bool, subject: Subject = SUBJECTS[0], warning: bool = False) -> Observation:
    return Observation(subject, number, passed, BEGIN + timedelta(minutes=number), warning=warning)


def test_one_alert_when_a_failure_starts_and_one_when_it_ends() -> None:
    story = [seen(n, passed) for n, passed in enumerate([True, False, False, True, True, False], 1)]
    states, alerts = changes({}, story, "log")
    assert [(alert.state, alert.at) for alert in alerts] == [
        ("failing", BEGIN + timedelta(minutes=2)),
        ("recovered", BEGIN + timedelta(minutes=4)),
        ("failing", BEGIN + timedelta(minutes=6)),
    ]
    assert alerts[1].since == BEGIN + timedelta(minutes=2)
    assert states[SUBJECTS[0]].failing


def test_a_warning_becomes_a_warning_alert() -> None:
    _, alerts = changes({}, [seen(1, False, warning=True), seen(2, True)], "log")
    assert [alert.state for alert in alerts] == ["warning", "recovered"]


def test_a_new_log_starts_at_one_again() -> None:
    states, _ = changes({}, [seen(900, False)], "old")
    states, alerts = changes(states, [seen(3, True)], "new")
    assert [alert.state for alert in alerts] == ["recovered"]
    assert changes(states, [seen(3, True)], "new") == ({}, [])


@given(
    st.lists(st.tuples(st.sampled_from(SUBJECTS), st.booleans()), max_size=30),
    st.lists(st.integers(0, 30), max_size=6),
    st.integers(0, 12),
)
def test_batches_and_events_read_again_change_nothing(
    story: list[tuple[Subject, bool]], cuts: list[int], overlap: int
) -> None:
    events = [seen(n, passed, subject) for n, (subject, passed) in enumerate(story, 1)]
    _, at_once = changes({}, events, "log")
    states: dict = {}
    in_parts = []
    start = 0
    for end in [*sorted(cuts), len(events)]:
        changed, alerts = changes(states, events[max(start - overlap, 0) : end], "log")
        states |= changed
        in_parts += alerts
        start = max(start, min(end, len(events)))
    assert in_parts == at_once
    assert changes(states, events, "log") == ({}, [])
    for subject in SUBJECTS:
        sent = [alert.state for alert in at_once if alert.subject == subject]
        assert sent == ["failing", "recovered"] * (len(sent) // 2) + ["failing"] * (len(sent) % 2)
        last = [event.passed for event in events if event.subject == subject][-1:]
        assert (sent[-1:] == ["failing"]) == (last == [False])
