"""Errors as problem details (RFC 9457): one JSON object with `type`, `title`, `status` and `detail`; people get a page."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from rag_pipeline.errors import (
    AnotherEmbedderError,
    ConfigError,
    DimensionMismatchError,
    RagError,
    StoreUnavailableError,
    one_line,
)

_log = logging.getLogger(__name__)

_JSON = re.compile(r"application/([\w.-]+\+)?json\b", re.I)

_BODY = '{"query": "what to look for"}'

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
_FOR_PROGRAMS = ("/v1", "/mcp", "/healthz", "/readyz", "/metrics", "/openapi.json")
"""Whatever a request says that it takes."""


class ProblemError(Exception):
    """A request that is not answered, and why."""

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, *, words: str = ""
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.words = words
        """The name of the search page's words for it, if its status does not say enough to people."""

    def response(self) -> JSONResponse:
        """Return the response that says so."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
        }
        return JSONResponse(body, self.status, self.headers, MEDIA_TYPE)


def unavailable(detail: str, seconds: int = RETRY_SECONDS, *, words: str = "") -> ProblemError:
    """Return the problem of a service that can answer again after so many seconds."""
    return ProblemError(503, detail, {"Retry-After": str(seconds)}, words=words)


def of_error(error: Exception) -> ProblemError:
    """Return what a caller is told of an error. Where servers are and what they said is for the log."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ConfigError):
        return ProblemError(422, one_line(error))
    if isinstance(error, StoreUnavailableError):
        _log.warning("%s", one_line(error))
        return unavailable("a store does not answer: try again later")
    if isinstance(error, AnotherEmbedderError | DimensionMismatchError):
        _log.warning("%s", one_line(error))
        return unavailable("the service is set to another embedder than the index: its log says what to set back")
    if isinstance(error, RagError):
        _log.warning("%s", one_line(error))
        return ProblemError(500, "the search failed: the service's log says why")
    _log.error("a request failed", exc_info=error)
    return ProblemError(500, "the request failed: the service's log says why")


def show_people(app: FastAPI, page: Callable[[Request, ProblemError], Response]) -> None:
    """Have an application show people its errors as this page."""
    app.state.error_page = page


def response_to(scope: Scope, problem: ProblemError) -> Response:
    """Return the response that tells of a problem: a page for people, problem details for programs."""
    page = getattr(scope["app"].state, "error_page", None)
    if page is None or not _is_of_a_person(scope):
        return problem.response()
    response: Response = page(Request(scope), problem)
    return response


def _is_of_a_person(scope: Scope) -> bool:
    path = scope["path"]
    if path in _FOR_PROGRAMS or path.startswith(tuple(f"{one}/" for one in _FOR_PROGRAMS)):
        return False
    return "text/html" in Headers(scope=scope).get("accept", "").lower()


def install(app: FastAPI) -> None:
    """Have every error of an application answered with problem details."""

    async def failed(request: Request, error: Exception) -> Response:
        return response_to(request.scope, of_error(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response_to(
            request.scope,
            ProblemError(422, explained(error.errors()[0], request.headers.get("content-type", ""))),
        )

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return response_to(request.scope, ProblemError(error.status_code, _what_to_do(error), error.headers))

    for kind in (ProblemError, RagError, Exception):
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _what_to_do(error: HTTPException) -> str:
    """Return the words for what FastAPI says of a request itself."""
    if error.status_code == 404:
        return "there is nothing at this address: /openapi.json lists those of the API"
    if error.status_code == 405:
        return f"this address takes another method: use {(error.headers or {}).get('Allow', 'another one')}"
    if error.detail == "There was an error parsing the body":
        return f"the body cannot be read: send one JSON object in UTF-8, such as {_BODY}"
    return str(error.detail)


def explained(error: Mapping[str, Any], content_type: str = "") -> str:
    """Return what is wrong with a request as `where: what`, without repeating its values."""
    if error["type"] == "json_invalid":
        # Pydantic counts characters for a place.
        return f"JSON decode error after {error['loc'][-1]} characters of the body: send one JSON object"
    if tuple(error["loc"]) == ("body",):
        if error["type"] != "missing" and not _JSON.match(content_type):
            return "the body is not announced as JSON: send the header Content-Type: application/json"
        return f"the body has to be one JSON object, such as {_BODY}"
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
