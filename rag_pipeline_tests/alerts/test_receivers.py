"""Receivers: their URLs are split correctly, deliver, and never leak."""

import logging
import subprocess
import sys

import pytest

from rag_pipeline.alerts.messages import Message
from rag_pipeline.alerts.receivers import Receiver, receivers
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.alerts import Inbox

MESSAGE = Message("失敗: 検証", "2024-01: 期待 5、格納 4", "failing", "0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        (None, []),
        (" \n", []),
        ("json://a/", ["json://a/"]),
        ("json://a/, slack://b/c/d\n\tjson://a/", ["json://a/", "slack://b/c/d"]),
        ("mailto://u:p@example.org?to=a@example.org,b@example.org json://a", None),
    ],
)
def test_urls_are_separated_by_white_space_or_commas(text: str | None, urls: list[str] | None) -> None:
    expected = ["mailto://u:p@example.org?to=a@example.org,b@example.org", "json://a"] if urls is None else urls
    found = receivers(load_settings(alert_urls=text))
    assert [receiver.url for receiver in found] == expected
    assert [receiver.number for receiver in found] == list(range(1, len(expected) + 1))


def test_a_message_arrives_unchanged(inbox: Inbox) -> None:
    assert Receiver(1, inbox.url).send(MESSAGE)
    (received,) = inbox.messages
    assert (received["title"], received["message"], received["type"]) == (MESSAGE.title, MESSAGE.body, "failure")
    assert inbox.keys == ["0123456789abcdef"], "programs can recognize a message that is sent again"
    assert Receiver(1, f"{inbox.url}?verify=no").send(MESSAGE)
    assert inbox.keys == ["0123456789abcdef"] * 2


def test_a_refused_message_is_reported(inbox: Inbox) -> None:
    inbox.status = 500
    assert not Receiver(1, inbox.url).send(MESSAGE)
    inbox.stop()
    assert not Receiver(1, inbox.url).send(MESSAGE)
    for url in ("nosuchservice://token", "not a URL", "slack://"):
        assert not Receiver(1, url).known()
        assert not Receiver(1, url).send(MESSAGE)
    assert Receiver(1, inbox.url).known()


@pytest.mark.parametrize("status", [200, 500, None])
def test_a_url_appears_in_no_log_and_no_text(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], status: int | None
) -> None:
    receiver = Receiver(3, inbox.url)
    if status is None:
        inbox.stop()
    else:
        inbox.status = status
    levels = {name: logging.getLogger(name).level for name in ("apprise", "urllib3")}
    with caplog.at_level(logging.DEBUG):
        receiver.send(MESSAGE)
        Receiver(4, "slack://hunter2").known()
    written = caplog.text + "".join(capfd.readouterr()) + repr(receiver) + str(receiver) + receiver.digest
    assert "hunter2" not in written
    assert "token-0123456789" not in written
    assert "127.0.0.1" not in written
    assert str(receiver) == "URL 3 of RAG_ALERT_URLS (json://…)"
    assert {name: logging.getLogger(name).level for name in levels} == levels


def test_the_digest_of_a_url_is_stable(inbox: Inbox) -> None:
    assert Receiver(1, "json://a").digest == Receiver(2, "json://a").digest
    assert Receiver(1, "json://a").digest != Receiver(1, "json://b").digest


def test_apprise_is_imported_only_to_send() -> None:
    code = (
        "import sys, rag_pipeline.alerts.delivery, rag_pipeline.alerts.receivers; "
        "sys.exit(any(name in sys.modules for name in ('apprise', 'dagster')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
