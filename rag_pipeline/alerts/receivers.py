"""The receivers: one per Apprise URL in `RAG_ALERT_URLS` (services: https://github.com/caronc/apprise/wiki).

A URL is a secret, including its host: for many services that is the token. A receiver is shown by its position in
the list and its scheme, and stored by a digest.
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

# A URL can contain commas and white space; a separator is followed by the next scheme.
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)")
_NOTIFY_TYPES: dict[AlertState, str] = {"failing": "failure", "warning": "warning", "recovered": "success"}
_WEBHOOKS = ("json", "xml", "form")
_LOGGERS = ("apprise", "urllib3", "requests")


@dataclass(frozen=True)
class Receiver:
    """One URL of `RAG_ALERT_URLS`."""

    number: int
    """Its position in the list, from 1."""
    url: str = field(repr=False)

    @property
    def digest(self) -> str:
        """The receiver's key in the database."""
        return _digest(self.url)

    def __str__(self) -> str:
        scheme, separator, _ = self.url.partition("://")
        return f"URL {self.number} of RAG_ALERT_URLS ({scheme}://…)" if separator else f"URL {self.number}"

    def send(self, message: Message) -> bool:
        """Send a message; True if the receiver accepted it. Errors are not logged: they can contain the URL."""
        import apprise

        with _quiet():
            # A new instance each time: one holds open connections and throttles its service.
            service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="rag-pipeline", async_mode=False))
            if not service.add(self._url_with(message.key)):
                return False
            return bool(
                service.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=_NOTIFY_TYPES[message.state],
                    body_format="text",
                )
            )

    def _url_with(self, key: str) -> str:
        """Return the URL. A webhook gets the message's key in a header; people would not know what to do with it."""
        scheme, _, rest = self.url.partition("://")
        if not key or scheme.lower().rstrip("s") not in _WEBHOOKS:
            return self.url
        return f"{self.url}{'&' if '?' in rest else '?'}+Idempotency-Key={key}"

    def known(self) -> bool:
        """Whether Apprise recognizes the URL."""
        import apprise

        with _quiet():
            return apprise.Apprise.instantiate(self.url) is not None


def receivers(settings: Settings) -> list[Receiver]:
    """Return the receivers in `RAG_ALERT_URLS`, without duplicates; none if it is not set."""
    text = settings.alert_urls.get_secret_value() if settings.alert_urls else ""
    urls = dict.fromkeys(url for url in _BETWEEN.split(text.strip(" \t\r\n,")) if url)
    return [Receiver(number, url) for number, url in enumerate(urls, 1)]


def send_test(receivers: Sequence[Receiver], ui_url: str) -> list[tuple[Receiver, str | None]]:
    """Send each receiver a test message; return why it was not accepted, or None."""
    message = Message(
        "rag-pipeline: Test", f"This is a test message. Alerts look like this.\n{ui_url}", "recovered"
    )
    return [(receiver, _refusal(receiver, message)) for receiver in receivers]


def _refusal(receiver: Receiver, message: Message) -> str | None:
    if not receiver.known():
        return "Apprise does not recognize the URL; correct it: https://github.com/caronc/apprise/wiki"
    if not receiver.send(message):
        return "did not accept the message; check its token, and that it can be reached from here"
    return None


@cache
def _digest(url: str) -> str:
    # Slow on purpose: a fast hash would let the passwords in some URLs be guessed.
    return hashlib.scrypt(url.encode(), salt=b"rag-pipeline receiver", n=2**14, r=8, p=1, dklen=16).hex()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loggers of Apprise and its HTTP libraries: they log URLs at any level."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
