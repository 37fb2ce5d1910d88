"""An embedding server over HTTP: requests side by side over kept connections, tried again after passing failures.

Everything runs in one event loop, in a thread of its own: the requests of all threads share the connections and the
limit of requests at a time, and when one fails for good, its siblings are ended with it.

No exception of httpx leaves this module, not even as a cause: its exceptions hold the request, and so the key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.embedding.base import TextError
from rag_pipeline.embedding.openai.answers import WrongAnswerError, error_code, reason, retry_after
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.printable import blanked
from rag_pipeline.urls import mask_url

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

    from rag_pipeline.embedding.openai.endpoints import Endpoint
    from rag_pipeline.embedding.openai.options import Address

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_REASON_CHARS = 200
_SPARE_BYTES = 4 * 2**20
"""What an answer can have besides its numbers; and all that an error can have."""
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
"""The compression that is asked for and taken, one at most: of what is read at once they make 64 MB at worst."""

_PASSING = {408, 409, 424, 425, 429}
"""Statuses after which the same request can succeed, besides all from 500 on. 424 is TEI's for a model that failed."""
_REFUSED = {400, 413, 422}
"""Statuses about what the request holds: a text, or a parameter that the server does not know."""


class RefusedTextError(TextError):
    """The server works, and refuses what it was given; alone, a text is to blame."""


@dataclass(frozen=True)
class Patience:
    """How long a request is tried again, with exponential pauses and full jitter.

    Full jitter spreads the requests of many clients best (Brooker, "Exponential Backoff And Jitter", AWS 2015).
    """

    seconds: float
    """No attempt begins later than this after the first one."""
    first: float
    """The longest that the first pause can be; it doubles with each."""
    longest: float
    """The longest that any pause can be."""


PATIENT = Patience(seconds=120, first=0.5, longest=15)
"""For texts: an ingest outlasts a restart of the server, and its limits per minute."""
URGENT = Patience(seconds=20, first=0.1, longest=2)
"""For queries: somebody waits, and the search service waits for at most 30 seconds."""


class EmbeddingServer:
    """Sends texts to a server. Thread-safe, and usable in a forked child.

    The first call starts the thread and opens connections. It has at most `concurrency` requests at a time, of which
    each may take `seconds`.
    """

    def __init__(
        self,
        address: Address,
        concurrency: int,
        seconds: float,
        *,
        patient: Patience = PATIENT,
        urgent: Patience = URGENT,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._address = address
        self._concurrency, self._seconds = concurrency, seconds
        self._patient, self._urgent = patient, urgent
        self._breaker = breaker or CircuitBreaker()
        self._last_failure = ""
        self._starting = threading.Lock()
        self._running: _Running | None = None

    def ask(self, endpoint: Endpoint[T], batches: Sequence[Sequence[str]], *, urgent: bool) -> Future[list[T]]:
        """Send each batch of texts in a request, several at a time. The future has their answers, in order.

        With `urgent` it gives up soon, and at once while the server does not answer (the circuit breaker); without,
        it outlasts a short outage. Cancelling the future ends the requests.

        It raises `StoreUnavailableError` if the server is down, slow, throttling or wrong, whatever it is given, and
        `RefusedTextError` if it refuses the texts of a batch.
        """
        running = self._started()
        return asyncio.run_coroutine_threadsafe(self._ask_all(running, endpoint, batches, urgent), running.loop)

    def close(self) -> None:
        """Close the connections and end the thread; the next call starts them again."""
        with self._starting:
            running, self._running = self._running, None
        if running is not None and running.pid == os.getpid():
            asyncio.run_coroutine_threadsafe(running.client.aclose(), running.loop).result()
            running.loop.call_soon_threadsafe(running.loop.stop)
            running.thread.join()
            running.loop.close()

    def _started(self) -> _Running:
        with self._starting:
            if self._running is None or self._running.pid != os.getpid():  # a thread does not survive a fork
                self._running = _Running(self._address, self._concurrency, self._seconds)
            return self._running

    async def _ask_all(
        self, running: _Running, endpoint: Endpoint[T], batches: Sequence[Sequence[str]], urgent: bool
    ) -> list[T]:
        tasks = [
            asyncio.ensure_future(self._until_answered(running, endpoint, batch, urgent)) for batch in batches
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _until_answered(
        self, running: _Running, endpoint: Endpoint[T], texts: Sequence[str], urgent: bool
    ) -> T:
        """Return the answer to one request, which is tried again after passing failures."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay

        patience = self._urgent if urgent else self._patient
        is_late = stop_before_delay(patience.seconds)

        def gives_up(state: RetryCallState) -> bool:
            # With an open breaker the next attempt would only be told that it has to wait.
            return is_late(state) or (urgent and endpoint.is_guarded and self._breaker.is_open)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=gives_up,
            wait=_pause(patience),
            reraise=True,
        )
        # Pauses are inside: a server that throttles gets fewer requests, and the time in the queue does not count.
        async with running.slots:
            try:
                return await retrying(self._attempt, running.client, endpoint, texts, urgent)
            except _PassingError as error:
                failure = error
        until = f", and asks to be left alone until {_after(failure.retry_after)}" if failure.retry_after else ""
        raise self._unavailable(endpoint, f"{failure}{until}; {failure.advice}")

    async def _attempt(
        self, client: httpx.AsyncClient, endpoint: Endpoint[T], texts: Sequence[str], urgent: bool
    ) -> T:
        if urgent and endpoint.is_guarded and not self._breaker.lets_through():
            raise self._unavailable(
                endpoint, f"{self._last_failure}, several times a moment ago; it is asked again in some seconds"
            )
        seconds = min(self._seconds, self._urgent.seconds) if urgent else self._seconds
        return await self._ask(client, endpoint, texts, seconds)

    async def _ask(
        self, client: httpx.AsyncClient, endpoint: Endpoint[T], texts: Sequence[str], seconds: float
    ) -> T:
        """Return the answer to one request; if it is refused, find the parameters that the server knows."""
        for left_out in endpoint.optional if endpoint.left_out is None else (endpoint.left_out,):
            response = await self._post(client, endpoint, texts, left_out, seconds)
            if response.is_success:
                answer = self._read(endpoint, response, len(texts))
                endpoint.left_out = left_out
                return answer
            if response.status_code not in _REFUSED:
                raise self._refusal(endpoint, response)
            if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                break
        if len(texts) > 1:
            _log.warning(
                "%s refuses %s texts at once (%s): if this is repeated, lower RAG_EMBEDDING_BATCH_TEXTS or "
                "RAG_EMBEDDING_BATCH_TOKENS",
                endpoint.url,
                len(texts),
                self._said(response),
            )
        raise RefusedTextError(
            f"{endpoint.called} refuses the text: {self._said(response)}", self._named(endpoint)
        )

    async def _post(
        self,
        client: httpx.AsyncClient,
        endpoint: Endpoint[T],
        texts: Sequence[str],
        left_out: Sequence[str],
        seconds: float,
    ) -> _Response:
        """Return the response to one request. Raises `_PassingError` if there is none, or it is about the moment."""
        import httpx

        body = endpoint.body(texts)
        content = json.dumps({name: body[name] for name in body if name not in left_out}).encode()
        failure: _PassingError | StoreUnavailableError | None
        try:
            # httpx's own timeouts are for each read: a server that sends a byte now and then would never reach them.
            async with asyncio.timeout(seconds):
                async with client.stream("POST", endpoint.url, content=content) as answer:
                    response = await self._received(endpoint, answer, texts)
        except httpx.ConnectTimeout:
            failure = _PassingError(
                f"no connection within {min(seconds, _CONNECT_SECONDS):g} seconds",
                "start the server, or correct the URL",
            )
        except (TimeoutError, httpx.TimeoutException):
            advice = "start or free the server"
            if seconds == self._seconds:  # and not the limit of a search, which is fixed
                advice += ", raise RAG_EMBEDDING_SECONDS, or lower RAG_EMBEDDING_BATCH_TOKENS"
            failure = _PassingError(f"no answer within {seconds:g} seconds", advice)
        except httpx.HTTPError as error:
            failure = self._without_answer(endpoint, error)
        else:
            failure = self._passing(response)
        if isinstance(failure, _PassingError):
            self._last_failure = str(failure)
            if endpoint.is_guarded and self._breaker.failed():
                _log.warning("%s fails: %s", endpoint.url, failure)
        if failure is not None:
            raise failure
        if endpoint.is_guarded and self._breaker.answered():
            _log.warning("%s answers again", endpoint.url)
        return response

    async def _received(self, endpoint: Endpoint[T], answer: httpx.Response, texts: Sequence[str]) -> _Response:
        """Return what is sent, unless it has more bytes, decompressed, than it may have."""
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise self._unavailable(
                endpoint, f"it sent the encoding {self._shown(encoding)!r}, which it was not asked for"
            )
        most = endpoint.largest_answer(texts) + _SPARE_BYTES
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > most:
                raise self._unavailable(
                    endpoint,
                    f"it sent more than {most / 2**20:.0f} MB, which no answer to this request can have; correct the "
                    "URL or the server",
                )
        return _Response(answer.status_code, answer.headers, bytes(content))

    def _without_answer(
        self, endpoint: Endpoint[T], error: httpx.HTTPError
    ) -> _PassingError | StoreUnavailableError:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._unavailable(
                endpoint,
                f"its certificate is not trusted ({cause.verify_message}); correct the URL, or name the file of its "
                "authority in SSL_CERT_FILE",
            )
        why = " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, socket.gaierror | ssl.SSLError):
            why = os.strerror(cause.errno)
        return _PassingError(f"no answer ({why})", "start the server, or correct the URL")

    def _passing(self, response: _Response) -> _PassingError | None:
        """Return what a response says about this moment only, or None."""
        status = response.status_code
        if status not in _PASSING and status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        if error_code(response.content) == "insufficient_quota":  # OpenAI's, with 429: no pause helps
            return None
        advice = "free or restart the server"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            advice = "lower RAG_EMBEDDING_CONCURRENCY, or have the limit raised"
        asked = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        return _PassingError(f"it answers {self._said(response)}", advice, asked)

    def _read(self, endpoint: Endpoint[T], response: _Response, texts: int) -> T:
        try:
            return endpoint.read(response.content, texts)
        except WrongAnswerError as error:
            failure = f"{error}" if error.says_what_to_do else f"{error}; {endpoint.what_else}"
        raise self._unavailable(endpoint, f"it sent {failure}")

    def _refusal(self, endpoint: Endpoint[T], response: _Response) -> StoreUnavailableError:
        """The error of a response that is neither an answer, nor about a text, nor about the moment."""
        status = response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # Without the server's words: some quote a part of the key.
            what = "does not accept" if self._address.authorization is not None else "wants"
            return self._unavailable(
                endpoint, f"it answers {_phrase(status)}: it {what} the key; set {self._address.key_variable}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return self._unavailable(endpoint, f"it answers {self._said(response)}; {endpoint.if_not_found}")
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST and "Location" in response.headers:
            # Not followed: the key would go to whoever is there.
            return self._unavailable(
                endpoint,
                f"it answers {_phrase(status)} and points to {self._target(endpoint, response)}; set "
                f"{self._address.variable} to where the server is",
            )
        return self._unavailable(endpoint, f"it answers {self._said(response)}; correct the URL or the server")

    def _target(self, endpoint: Endpoint[T], response: _Response) -> str:
        """Return where a response points to, without what can be secret."""
        try:
            parts = urlsplit(urljoin(endpoint.url, response.headers["Location"]))
        except ValueError:
            return "no valid URL"
        host = parts.netloc.rpartition("@")[2]
        return self._shown(urlunsplit(parts._replace(netloc=host, query="", fragment="")))

    @property
    def name(self) -> str:
        """The setting that says where it is, and where it is."""
        return f"{self._address.variable}={self._address.url}"

    def _unavailable(self, endpoint: Endpoint[T], what: str) -> StoreUnavailableError:
        end = "" if what.endswith("?") else "."
        return StoreUnavailableError(f"{self._named(endpoint)}: {what}{end} Nothing was lost: run again then")

    def _named(self, endpoint: Endpoint[T]) -> str:
        return self.name if endpoint.url == self._address.url else f"{self.name}, at {endpoint.url}"

    def _said(self, response: _Response) -> str:
        """Return a status and the server's words, on one line, without what must not be shown."""
        words = self._shown(reason(response.content))
        phrase = _phrase(response.status_code)
        return f"{phrase}: {words}" if words else phrase

    def _shown(self, words: str) -> str:
        """Return what a server said, on one line, without what must not be shown."""
        for secret in self._address.secrets:
            words = words.replace(secret.get_secret_value(), "***")
        words = " ".join(blanked(mask_url(words)).split())
        return words if len(words) <= _REASON_CHARS else words[:_REASON_CHARS] + "…"


@dataclass(frozen=True)
class _Response:
    """A response that was read to its end."""

    status_code: int
    headers: httpx.Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300


class _PassingError(Exception):
    """A failure after which the same request can succeed."""

    def __init__(self, what: str, advice: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.advice = advice
        self.retry_after = retry_after
        """The seconds that the server asks to wait."""


class _Running:
    """What lives in one process: the thread with the event loop, and the connections."""

    def __init__(self, address: Address, concurrency: int, seconds: float) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.client = _client(address, concurrency, seconds)
        self.slots = asyncio.Semaphore(concurrency)
        # A daemon: whoever ends the process does not wait for a server.
        self.thread = threading.Thread(target=self.loop.run_forever, name="embedding-server", daemon=True)
        self.thread.start()


def _client(address: Address, concurrency: int, seconds: float) -> httpx.AsyncClient:
    import httpx

    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
    if address.authorization is not None:
        headers["Authorization"] = address.authorization.get_secret_value()
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
    return httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)


def _pause(patience: Patience) -> Callable[[RetryCallState], float]:
    """Return how long to wait after a failed attempt: as long as the server asks, else at random.

    Whoever has not that much patience left gives up at once: to ask a server sooner than it wants can cost more.
    """
    from tenacity import wait_random_exponential

    jitter = wait_random_exponential(multiplier=patience.first, max=patience.longest)

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, _PassingError) else None
        if asked is None:
            return jitter(state)
        # A little more, so that all who wait do not come back at once.
        return asked + min(jitter(state), patience.first)

    return pause


def _after(seconds: float) -> str:
    """Return when so many seconds have passed."""
    try:
        return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return "the end of time"


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
