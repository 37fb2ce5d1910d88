"""Messages: which alerts share one, and its text."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.alerts.messages import BODY_CHARACTERS, group, message_key, render
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.alert_outbox import Alert, Subject

AT = datetime(2026, 1, 5, 10, 11, 12, tzinfo=UTC)
MONTHS = list(Month(2022, 1).until(Month(2024, 6)))
UI = "http://rag.example:3000"


def alert(
    number: int,
    month: Month | None = MONTHS[0],
    state: str = "failing",
    name: str = "vectors_verified on dense_collection",
    kind: str = "check",
    description: str = "Vectors expected in dense_collection: 1,200, stored: 1,199, searchable: 1,199.",
) -> Alert:
    return Alert(
        f"log:{kind}:{number}",
        Subject(kind, name, month.partition_key if month else ""),  # type: ignore[arg-type]
        state,  # type: ignore[arg-type]
        AT + timedelta(minutes=number),
        AT,
        description,
        f"`rag-pipeline repair --month {month}` restores what differs",
        f"/runs/{number}",
        "/locations/rag_pipeline/jobs/repair_month",
    )


def test_a_single_alert_names_the_check_month_time_and_remedy() -> None:
    message = render([alert(1)], UI, "0123456789abcdef")
    assert message.title == "rag-pipeline: Failing: vectors_verified on dense_collection, 2022-01"
    assert message.body == (
        "vectors_verified on dense_collection, 2022-01: failing since 2026-01-05T10:11:12Z\n"
        "Vectors expected in dense_collection: 1,200, stored: 1,199, searchable: 1,199.\n"
        "What to do: `rag-pipeline repair --month 2022-01` restores what differs.\n"
        "Details: http://rag.example:3000/runs/1\n"
        "Repair it in the UI: http://rag.example:3000/locations/rag_pipeline/jobs/repair_month/playground/setup"
        "?tags%5B0%5D%5Bkey%5D=dagster%2Fpartition&tags%5B0%5D%5Bvalue%5D=2022-01-01"
    )


def test_many_months_share_one_message_that_names_them() -> None:
    alerts = [alert(n, month) for n, month in enumerate(MONTHS)]
    assert group(alerts) == [alerts]
    message = render(alerts, UI, "key")
    assert message.title == "rag-pipeline: Failing: vectors_verified on dense_collection, 30 months"
    months = ", ".join(str(month) for month in MONTHS[3:])
    assert message.body == (
        "vectors_verified on dense_collection, 30 months: failing since 2026-01-05T10:11:12Z\n"
        "2022-01: Vectors expected in dense_collection: 1,200, stored: 1,199, searchable: 1,199.\n"
        "http://rag.example:3000/runs/0\n"
        "2022-02: Vectors expected in dense_collection: 1,200, stored: 1,199, searchable: 1,199.\n"
        "http://rag.example:3000/runs/1\n"
        "2022-03: Vectors expected in dense_collection: 1,200, stored: 1,199, searchable: 1,199.\n"
        "http://rag.example:3000/runs/2\n"
        f"Also {months}\n"
        "What to do: run `rag-pipeline repair`, or start a backfill of these months:\n"
        "http://rag.example:3000/locations/rag_pipeline/jobs/repair_month/partitions"
    )


def test_a_recovery_names_both_times() -> None:
    message = render([alert(7, state="recovered")], UI, "key")
    assert message.title.startswith("rag-pipeline: Recovered: ")
    assert message.body == (
        "vectors_verified on dense_collection, 2022-01: recovered at 2026-01-05T10:18:12Z, "
        "after failing since 2026-01-05T10:11:12Z\nhttp://rag.example:3000/runs/7"
    )


def test_each_kind_and_state_gets_its_own_message() -> None:
    alerts = [alert(1), alert(2, state="warning", name="quarantined_documents on documents"), alert(3, kind="run")]
    assert group(alerts) == [[alerts[0]], [alerts[1]], [alerts[2]]]
    assert "Warning" in render(group(alerts)[1], UI, "key").title


def test_unsent_alerts_of_a_subject_keep_their_order() -> None:
    a, b = MONTHS[:2]
    alerts = [
        alert(1, a, "warning"),
        alert(2, a, "recovered"),
        alert(3, b, "failing"),
        alert(4, b, "recovered"),
        alert(5, a, "failing"),
    ]
    messages = group(alerts)
    assert messages == [[alerts[0]], [alerts[2]], [alerts[1], alerts[3]], [alerts[4]]]


def test_the_key_depends_on_the_alerts_alone() -> None:
    assert message_key([alert(1), alert(2)]) == message_key([alert(2), alert(1)])
    assert message_key([alert(1)]) != message_key([alert(1), alert(2)])


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=300)


@given(
    st.lists(
        st.tuples(names, st.sampled_from([*MONTHS, None]), st.text(max_size=900)),
        min_size=1,
        max_size=120,
        unique_by=lambda part: (part[0], part[1]),
    )
)
def test_a_message_stays_within_the_limits_of_chat_services(
    parts: Sequence[tuple[str, Month | None, str]],
) -> None:
    alerts = [alert(n, month, name=name, description=text) for n, (name, month, text) in enumerate(parts)]
    message = render(alerts, UI, "0123456789abcdef")
    assert 0 < len(message.title) <= 200
    assert len(message.body) <= BODY_CHARACTERS
    assert message.key == "0123456789abcdef"
    assert message.key not in message.body


def test_six_checks_of_thirty_months_name_every_check() -> None:
    checks = [f"check_{n} on documents" for n in range(6)]
    alerts = [alert(n, month, name=name) for name in checks for n, month in enumerate(MONTHS)]
    message = render(alerts, UI, "key")
    assert message.title == "rag-pipeline: Failing: 6 checks, 30 months"
    assert all(name in message.body for name in checks)
