"""Who may come in: every request under `/v1` and to `/mcp` has an API key, a permission and a share of the key's minute.

All of it before a body is read, so that whoever has no key costs no more than a look at one index. Bodies are bounded, and
so are the requests of each client that wait for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_pipeline.accounts.api_keys import Asker, authenticate
from rag_pipeline.accounts.permissions import METRICS, SEARCH, allows
from rag_pipeline.accounts.security_log import asking_address
from rag_pipeline.service.addresses import network
from rag_pipeline.service.metrics import GONE, Metrics
from rag_pipeline.service.problems import ProblemError, of_error, response_to, unavailable
from rag_pipeline.service.searching import in_thread

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.service.rate_limits import Admission, RateLimits
    from rag_pipeline.service.usage import Usage

MOST_BODY_BYTES = 64 * 1024
_MOST_REQUESTS = 500
"""At once, without those that wait for their clients; more are told to come again."""
_MOST_PENDING = 100
"""Requests of one key, or of one address without a key, whose body has not come; and as many whose response is not taken."""
_OPERATING = ("/healthz", "/readyz", "/metrics")
"""They answer however many requests there are: otherwise whoever watches the service would see it down."""
_BODY_SECONDS = 10.0
_LONGEST_KEY = 200
_TOO_LARGE = f"a request has at most {MOST_BODY_BYTES} bytes"
_UNAUTHORIZED = "this needs an API key: send it as `Authorization: Bearer rag_…`"
_WRONG_KEY = "this API key is not valid: it is unknown, revoked or expired, or its user has no account any more"
_UNFINISHED = (
    "too many requests from there are unfinished: send them whole, read the answers, and try again in a moment"
)


class Guard:
    """ASGI middleware. Leaves the `Asker` in the scope's state as `asker`.

    A page that shows a picture from elsewhere leaves its origin there as `image_origin`, for the policy of its response.
    """

    def __init__(
        self,
        app: ASGIApp,
        pipeline: Pipeline,
        limits: RateLimits,
        usage: Usage,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
    ) -> None:
        """Requests are counted under the one of these routes that was asked for, also if they are refused."""
        is_secure = pipeline.settings.search_url.startswith("https://")
        self._app = app
        self._pipeline = pipeline
        self._limits = limits
        self._usage = usage
        self._metrics = metrics
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._inside = 0
        self._pending: Counter[tuple[str, str]] = Counter()
        self._safety = [*_SAFETY, *([_TLS_ONLY] if is_secure else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers: dict[str, str] = {}
        status, begun, is_gone, is_let_in = 500, False, False, False
        asked, path = Headers(scope=scope), scope["path"]
        address = scope["client"][0] if scope.get("client") else ""
        asking_address.set(address or None)
        who = network(address)
        if scope["method"] == "HEAD":
            # What answers GET answers it too. The server, which has the scope as it came, leaves the body out.
            scope = {**scope, "method": "GET"}

        async def receiving() -> Message:
            nonlocal is_gone
            message = await receive()
            if message["type"] == "http.disconnect" and not begun:
                is_gone = True
            return message

        async def answering(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), *added, *self._safety, _policy(scope)],
                }
            with self._waiting("response", who):
                await send(message)

        self._inside += 1
        try:
            self._find_room(path)
            if path == "/mcp" and scope["method"] == "GET":
                # A stream for messages of the server, of which a stateless one has none; it would stay open for ever.
                raise ProblemError(405, "send a message with POST", {"Allow": "POST"})
            needed = _needed(path)
            if needed is not None:
                asker, admission = await in_thread(self._let_in, _key(asked))
                headers.update(admission.headers)
                if not admission.is_admitted:
                    raise ProblemError(
                        429, f"this key may make {admission.limit} requests a minute: wait a little"
                    )
                if not allows(asker.permissions, needed):
                    raise ProblemError(403, f"this key has no permission {needed}")
                scope.setdefault("state", {})["asker"] = asker
                who = f"key {asker.key_id}"
            if path not in _OPERATING:
                self._find_patience("response", who)
            body = b""
            if "content-length" in asked or "transfer-encoding" in asked:
                self._find_patience("body", who)
                with self._waiting("body", who):
                    body = await _whole_body(receiving, asked)
                self._find_room(path)
            else:
                await _whole_body(receiving, asked)  # There is none, and no wait for it.
            is_let_in = True
            is_read = not body and scope["method"] == "GET"  # Nothing below reads it.
            await self._app(scope, receiving if is_read else _again(body, receiving), answering)
        except _GoneError:
            pass
        except Exception as error:
            if begun:
                raise
            await response_to(scope, of_error(error))(scope, receive, answering)
        finally:
            self._inside -= 1
            route = self._route(scope)
            self._metrics.requests.labels(route, str(GONE if is_gone else status)).inc()
            if is_let_in and not is_gone:
                self._metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _find_room(self, path: str) -> None:
        if self._inside > _MOST_REQUESTS and path not in _OPERATING:
            raise unavailable("too many requests at once: try again in a moment", 1)

    def _find_patience(self, what: str, who: str) -> None:
        if self._pending[what, who] >= _MOST_PENDING:
            raise ProblemError(429, _UNFINISHED, {"Retry-After": "1"})

    @contextmanager
    def _waiting(self, what: str, who: str) -> Iterator[None]:
        """While its client is waited for, a request takes nobody's place."""
        self._pending[what, who] += 1
        self._inside -= 1
        try:
            yield
        finally:
            self._inside += 1
            self._pending[what, who] -= 1
            if not self._pending[what, who]:
                del self._pending[what, who]

    def _route(self, scope: Scope) -> str:
        """Return the path of the route that was asked for, with the names of its parameters; there are only so many."""
        if (known := getattr(scope.get("route"), "path", None)) is not None:
            return str(known)
        return next((route.path for route in self._routes if route.path_regex.match(scope["path"])), "other")

    def _let_in(self, key: str) -> tuple[Asker, Admission]:
        asker = authenticate(self._pipeline.stores.database, key)
        if asker is None:
            raise _wrong_key()
        assert asker.key_id is not None
        admission = self._limits.admit(str(asker.key_id), asker.requests_per_minute)
        if admission.is_admitted:
            self._usage.used(asker.key_id)
        return asker, admission


def _key(headers: Headers) -> str:
    """Return the key of a request. Raises `ProblemError` if there is none, or one that is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise ProblemError(401, _UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})
    key = key.strip()
    if len(key) > _LONGEST_KEY:
        raise _wrong_key()
    return key


def _wrong_key() -> ProblemError:
    return ProblemError(401, _WRONG_KEY, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")
_SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


def _policy(scope: Scope) -> tuple[bytes, bytes]:
    """Return the policy of a response: it loads nothing from elsewhere, except images from the origin that it names."""
    images = " ".join(["'self'", *filter(None, [scope.get("state", {}).get("image_origin")])])
    policy = (
        f"default-src 'none'; style-src 'self'; script-src 'self'; img-src {images}; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return b"content-security-policy", policy.encode()


class _GoneError(Exception):
    """The asker has gone before the whole request came."""


def _needed(path: str) -> str | None:
    """The permission that a path needs; None if it is open."""
    if path in ("/v1", "/mcp") or path.startswith(("/v1/", "/mcp/")):
        return SEARCH
    return METRICS if path == "/metrics" else None


async def _whole_body(receive: Receive, headers: Headers) -> bytes:
    """Read a body. Raises `ProblemError` for one that is too large, or comes too slowly."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MOST_BODY_BYTES:
        raise ProblemError(413, _TOO_LARGE)
    body = bytearray()
    try:
        with anyio.fail_after(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                body += message.get("body", b"")
                if len(body) > MOST_BODY_BYTES:
                    raise ProblemError(413, _TOO_LARGE)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ProblemError(408, f"the request did not arrive within {_BODY_SECONDS:.0f} seconds") from None


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, and then what comes after it."""
    is_given = False

    async def given() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return given
