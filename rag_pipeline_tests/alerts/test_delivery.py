"""Recording and delivery on a real database and real receivers: each alert once to each, whatever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from rag_pipeline.alerts.delivery import RETENTION, DeliveryResult, deliver
from rag_pipeline.alerts.receivers import Receiver
from rag_pipeline.alerts.recording import last_read_event, record, record_gone
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.alert_outbox import Subject, failing
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.alerts import TABLES, Inbox

NOW = datetime.now(UTC)
UI = "http://rag.example:3000"


def seen(number: int, passed: bool, month: str = "2024-01", name: str = "verified on dense") -> Observation:
    subject = Subject("check", name, Month.parse(month).partition_key)
    return Observation(subject, number, passed, NOW, description="run `rag-pipeline repair`", path="/assets/dense")


def send(database: Database, *inboxes: Inbox, now: datetime = NOW) -> DeliveryResult:
    listed = [Receiver(number, inbox.url) for number, inbox in enumerate(inboxes, 1)]
    return deliver(database, listed, UI, time.monotonic() + 30, now)


def stored(database: Database) -> str:
    with database.connection() as connection:
        rows = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES.split(", ")]  # type: ignore[call-overload]
    return repr(rows)


def test_one_message_on_failure_and_one_on_recovery(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    for number, passed in enumerate([True, False, False, False, True, True], 1):
        record(database, "log", [seen(number, passed)], number)
        send(database, inbox)
    assert inbox.titles == [
        "rag-pipeline: Failing: verified on dense, 2024-01",
        "rag-pipeline: Recovered: verified on dense, 2024-01",
    ]
    assert f"{UI}/assets/dense" in inbox.bodies()
    assert "rag-pipeline repair" in inbox.bodies()
    assert last_read_event(database, "log") == 6


def test_the_alert_of_what_is_gone_is_closed_once(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    gone, kept = seen(1, False, "2001-01"), seen(2, False, "2001-02")
    record(database, "log", [gone, kept], 2)
    is_gone = [gone.subject].__contains__
    assert record_gone(database, is_gone) == 1
    assert record_gone(database, is_gone) == 0
    record(database, "log", [gone, kept], 2)  # The last events are read again.
    send(database, inbox)
    assert "rag-pipeline: Recovered: verified on dense, 2001-01" in inbox.titles
    with database.connection() as connection:
        assert [subject for subject, _ in failing(connection)] == [kept.subject]
    record(database, "log", [seen(3, False, "2001-01")], 3)
    send(database, inbox)
    assert inbox.titles[-1] == "rag-pipeline: Failing: verified on dense, 2001-01"


def test_events_read_again_are_not_sent_again(database: Database, inbox: Inbox) -> None:
    story = [seen(1, False), seen(2, True), seen(3, False)]
    send(database, inbox)
    assert record(database, "log", story, 3) == 3
    assert record(database, "log", story, 3) == 0
    send(database, inbox)
    with database.connection() as connection:
        connection.execute("DELETE FROM alert_cursors")
        connection.execute("DELETE FROM alert_states")  # and even then the outbox knows the events
    record(database, "log", story, 3)
    send(database, inbox)
    assert [title.split(": ")[1] for title in inbox.titles] == ["Failing", "Recovered", "Failing"]


def test_a_killed_recording_is_repeated_as_a_whole(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    with database.connection() as holder:
        # The cursor is stored last: there the process waits, with all the rest written and nothing committed.
        holder.execute("LOCK TABLE alert_cursors IN EXCLUSIVE MODE")
        process = _in_process(database, "record(database, 'log', [seen], 1)")
        _until(lambda: _is_waiting_for_a_lock(database))
        process.kill()
        process.wait()
    _until(lambda: not _is_waiting_for_a_lock(database))
    assert last_read_event(database, "log") == 0
    assert send(database, inbox).messages == 0
    assert record(database, "log", [seen(1, False)], 1) == 1
    assert send(database, inbox).messages == 1


def test_an_unreachable_receiver_is_notified_once_later(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    inbox.stop()
    record(database, "log", [seen(1, False)], 1)
    result = send(database, inbox)
    assert (result.messages, result.pending) == (0, 1)
    assert result.refused == ["URL 1 of RAG_ALERT_URLS (json://…)"]
    inbox.start()
    assert send(database, inbox).refused == []  # not retried yet
    assert inbox.messages == []
    later = NOW + timedelta(seconds=31)
    assert send(database, inbox, now=later).messages == 1
    assert send(database, inbox, now=later).messages == 0
    assert len(inbox.messages) == 1


def test_pauses_grow_until_a_message_is_accepted(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    inbox.status = 503
    record(database, "log", [seen(1, False)], 1)
    now, pauses = NOW, []
    for _ in range(8):
        assert send(database, inbox, now=now).refused
        with database.connection() as connection:
            (next_try_at,) = connection.execute("SELECT next_try_at FROM alert_receivers").fetchone()  # type: ignore[misc]
        pauses.append(int((next_try_at - now).total_seconds()))
        now = next_try_at
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]
    inbox.status = 200
    record(database, "log", [seen(2, True)], 2)
    assert send(database, inbox, now=now).messages == 2
    record(database, "log", [seen(3, False)], 3)
    assert send(database, inbox, now=now).messages == 1


def test_receivers_are_independent(database: Database, make_inbox: Callable[[], Inbox]) -> None:
    stopped, listening = make_inbox(), make_inbox()
    send(database, stopped, listening)
    stopped.stop()
    for number, passed in enumerate([False, True, False], 1):
        record(database, "log", [seen(number, passed)], number)
        send(database, stopped, listening)
    assert len(listening.messages) == 3
    stopped.start()
    send(database, stopped, listening, now=NOW + timedelta(hours=1))
    assert [m["title"] for m in stopped.messages] == [m["title"] for m in listening.messages]
    assert len(listening.messages) == 3


def test_many_months_share_one_message(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    months = [str(month) for month in Month(2022, 1).until(Month(2024, 6))]
    record(database, "log", [seen(n, False, month) for n, month in enumerate(months, 1)], 30)
    assert send(database, inbox).messages == 1
    assert all(month in inbox.bodies() for month in months)


def test_alerts_during_an_outage_are_grouped_behind_the_pending_message(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    inbox.stop()
    record(database, "log", [seen(1, False, "2024-01")], 1)
    send(database, inbox)
    for number, month in enumerate(["2024-02", "2024-03", "2024-04"], 2):
        record(database, "log", [seen(number, False, month)], number)
        send(database, inbox, now=NOW + timedelta(hours=number))
    inbox.start()
    send(database, inbox, now=NOW + timedelta(days=1))
    assert [title.rsplit(", ", 1)[1] for title in inbox.titles] == ["2024-01", "3 months"]


def test_a_process_killed_before_marking_a_message_sends_the_same_one_again(
    database: Database, inbox: Inbox
) -> None:
    send(database, inbox)
    record(database, "log", [seen(1, False, "2024-01"), seen(2, False, "2024-02")], 2)
    got: list[dict] = []

    def kill(message: dict) -> None:
        got.append(message)
        process.kill()
        process.wait()

    inbox.on_message = kill
    process = _in_process(
        database, f"deliver(database, [Receiver(1, {inbox.url!r})], {UI!r}, time.monotonic() + 30)"
    )
    process.wait(30)
    inbox.on_message = lambda message: None
    inbox.messages.clear()
    record(database, "log", [seen(3, False, "2024-03")], 3)
    _until(lambda: not send(database, inbox).busy)  # as soon as the server has noticed the end of the session
    again, new = inbox.messages
    assert [m["message"] for m in got] == [again["message"]]
    assert "2024-03" in new["title"]
    assert send(database, inbox).messages == 0


def test_two_processes_do_not_send_the_same_message(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    record(database, "log", [seen(1, False)], 1)
    sending, resume = threading.Event(), threading.Event()

    def wait(message: dict) -> None:
        sending.set()
        resume.wait(3)

    inbox.on_message = wait
    first = threading.Thread(target=send, args=(database, inbox))
    first.start()
    assert sending.wait(10)
    assert send(database, inbox).busy
    resume.set()
    first.join()
    assert len(inbox.messages) == 1


def test_a_new_receiver_is_notified_of_what_is_still_failing_only(
    database: Database, make_inbox: Callable[[], Inbox]
) -> None:
    old, new = make_inbox(), make_inbox()
    send(database, old)
    record(database, "log", [seen(1, False, "2024-01"), seen(2, True, "2024-01"), seen(3, False, "2024-02")], 3)
    send(database, old)
    send(database, old, new)
    assert len(old.messages) == 2
    assert [title.rsplit(", ", 1)[1] for title in new.titles] == ["2024-02"]


def test_states_are_kept_for_the_first_receiver(database: Database, inbox: Inbox) -> None:
    record(database, "log", [seen(1, False, "2024-01"), seen(2, True, "2024-01"), seen(3, False, "2024-02")], 3)
    assert send(database) == DeliveryResult()
    assert send(database, inbox).messages == 1
    assert "2024-02" in inbox.titles[0]


def test_old_alerts_are_deleted_unless_still_failing(database: Database, inbox: Inbox) -> None:
    record(database, "log", [seen(1, False, "2024-01"), seen(2, True, "2024-01"), seen(3, False, "2024-02")], 3)
    send(database, inbox)
    with database.connection() as connection:
        connection.execute("UPDATE alert_outbox SET recorded_at = %s", (NOW - RETENTION - timedelta(days=1),))
    send(database, inbox)
    with database.connection() as connection:
        assert connection.execute("SELECT partition FROM alert_outbox").fetchall() == [("2024-02-01",)]
    record(database, "log", [seen(3, False, "2024-02"), seen(4, True, "2024-02")], 4)
    send(database, inbox)
    assert inbox.titles[-1] == "rag-pipeline: Recovered: verified on dense, 2024-02"
    assert len(inbox.messages) == 2


def test_a_deadline_leaves_the_rest_to_the_next_call(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    record(database, "log", [seen(1, False)], 1)
    listed = [Receiver(1, inbox.url)]
    assert deliver(database, listed, UI, time.monotonic() - 1, NOW).pending == 1
    assert send(database, inbox).messages == 1


def test_no_secret_is_stored(database: Database, inbox: Inbox) -> None:
    send(database, inbox)
    inbox.status = 500
    text = "cannot reach postgresql://rag:s3cret@db/rag\x00 \ud800"
    subject = Subject("run", "index_month", "2024-01-01")
    record(database, "log", [Observation(subject, 1, False, NOW, description=text, what_to_do=text)], 1)
    send(database, inbox)
    inbox.status = 200
    send(database, inbox, now=NOW + timedelta(minutes=1))
    assert "cannot reach postgresql://rag:***@db/rag" in inbox.bodies()
    for secret in ("s3cret", "hunter2", "token-0123456789", str(inbox.port)):
        assert secret not in stored(database)


def _in_process(database: Database, code: str) -> subprocess.Popen[bytes]:
    """Run code in another process, on the same database."""
    preamble = (
        "import os, time\n"
        "from datetime import UTC, datetime\n"
        "from rag_pipeline.alerts.delivery import deliver\n"
        "from rag_pipeline.alerts.receivers import Receiver\n"
        "from rag_pipeline.alerts.recording import record\n"
        "from rag_pipeline.alerts.state_changes import Observation\n"
        "from rag_pipeline.stores.postgres.alert_outbox import Subject\n"
        "from rag_pipeline.stores.postgres.database import Database\n"
        "database = Database(os.environ['TEST_URL'], min_size=1)\n"
        "seen = Observation(Subject('check', 'verified on dense', '2024-01-01'), 1, False, datetime.now(UTC))\n"
    )
    environment = {**os.environ, "TEST_URL": database._url}
    return subprocess.Popen([sys.executable, "-c", preamble + code], env=environment)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_waiting_for_a_lock(database: Database) -> bool:
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row != (0,)
