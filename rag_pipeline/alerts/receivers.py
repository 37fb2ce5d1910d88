"""The receivers: one an Apprise URL in `RAG_ALERT_URLS` (https://github.com/caronc/apprise/wiki lists the services).

A URL is a secret, its host too: for many services it is the token. A receiver is shown as its place in the list and
its scheme, and stored as a digest.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from rag_pipeline.alerts.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rag_pipeline.settings import Settings
    from rag_pipeline.stores.postgres.alert_outbox import AlertState

# Commas and white space may stand inside a URL; between two URLs the next scheme follows.
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)")
_NOTIFY_TYPES: dict[AlertState, str] = {"failing": "failure", "warning": "warning", "recovered": "success"}
_LOGGERS = ("apprise", "urllib3", "requests")


@dataclass(frozen=True)
class Receiver:
    """One URL of `RAG_ALERT_URLS`."""

    number: int
    """Its place in the list, from 1."""
    url: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What the database knows it by."""
        return _digest(self.url)

    def __str__(self) -> str:
        scheme, separator, _ = self.url.partition("://")
        return f"URL {self.number} of RAG_ALERT_URLS ({scheme}://…)" if separator else f"URL {self.number}"

    def send(self, message: Message) -> bool:
        """Hand a message over; whether the receiver accepted it. No error and no log line: both may hold the URL."""
        import apprise

        with _quiet():
            # Instances are not kept: one holds connections and the throttling of its service.
            service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="rag-pipeline", async_mode=False))
            if not service.add(self.url):
                return False
            return bool(
                service.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=_NOTIFY_TYPES[message.state],
                    body_format="text",
                )
            )

    def known(self) -> bool:
        """Whether Apprise knows a service by this URL."""
        import apprise

        with _quiet():
            return apprise.Apprise.instantiate(self.url) is not None


def receivers(settings: Settings) -> list[Receiver]:
    """The receivers in `RAG_ALERT_URLS`, each once; none where it is unset."""
    text = settings.alert_urls.get_secret_value() if settings.alert_urls else ""
    urls = dict.fromkeys(url for url in _BETWEEN.split(text.strip(" \t\r\n,")) if url)
    return [Receiver(number, url) for number, url in enumerate(urls, 1)]


def send_test(receivers: Sequence[Receiver], ui_url: str) -> list[tuple[Receiver, str | None]]:
    """Send each receiver a message that means nothing; what is wrong with those that did not accept it."""
    message = Message("rag-pipeline: Test", f"This is a test. Alerts come like this.\n{ui_url}", "recovered")
    return [(receiver, _refusal(receiver, message)) for receiver in receivers]


def _refusal(receiver: Receiver, message: Message) -> str | None:
    if not receiver.known():
        return "not a URL that Apprise knows; correct it: https://github.com/caronc/apprise/wiki"
    if not receiver.send(message):
        return "did not accept; is its token right, and can it be reached from here?"
    return None


@cache
def _digest(url: str) -> str:
    # Slow on purpose: some URLs hold passwords that a fast hash would give away to guessing.
    return hashlib.scrypt(url.encode(), salt=b"rag-pipeline receiver", n=2**14, r=8, p=1, dklen=16).hex()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loggers of Apprise and of what it sends with silent: they write URLs, whatever the level."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
