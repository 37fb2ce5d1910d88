"""The connection to Milvus, real or Lite, and the translation of its failures into one line."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rag_pipeline.endpoints import milvus_address
from rag_pipeline.errors import DataRefusedError, RagError, StoreUnavailableError, one_line
from rag_pipeline.stores.milvus.lean_pymilvus import import_pymilvus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymilvus import MilvusClient

TIMEOUT_SECONDS = 30
_CONNECT_TIMEOUT_SECONDS = 10
_POOL = 10
_KEEPALIVE_MS = 330_000
"""pymilvus pings every 10 s, also when idle. A server with gRPC's defaults, such as Lite, treats more than a few pings
in five minutes as an attack and closes the connection; the next call then fails although nothing is wrong."""

_DATA_CODES = frozenset({1100, 1101, 1102, 1804})
"""The server's codes for an error in the rows of a request: a parameter that is invalid, missing or too large, and
invalid data. Its other codes are about itself: not ready, limits and quotas, nothing loaded, no permission."""
_LITE_ILLEGAL_ARGUMENT = 6
"""The code, new and old alike, under which Lite refuses rows. A server has another meaning for the new one."""
_RATE_LIMIT = 8
_LOGIN_CODES = frozenset({1400, 1401, 1800})
"""Not logged in, and no privilege."""
_SERVER_CODES = range(3, 65_535)
"""Codes that only a server gives, about itself. Below them are those of pymilvus' own errors too; the last one is that
of errors without a code. Only those have to be told apart by their words."""


class Milvus:
    """One connection, at most ten calls at a time (gRPC multiplexes them; more would only queue at the server).

    Opened at the first use, because pymilvus is slow to import. Its `repr` and its errors never hold the password.
    """

    def __init__(self, uri: str) -> None:
        address = milvus_address(uri)
        self.where = str(address)
        self._arguments: dict[str, Any] = {"uri": f"{'https' if address.secure else 'http'}://{self.where}"}
        parts = urlsplit(uri)
        if parts.username:
            self._arguments["user"] = unquote(parts.username)
            self._arguments["password"] = unquote(parts.password or "")
        if parts.path.strip("/"):
            self._arguments["db_name"] = parts.path.strip("/")
        self._client: MilvusClient | None = None
        self._version = ""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_POOL)

    def __repr__(self) -> str:
        return f"Milvus({self.where})"

    @contextmanager
    def client(self) -> Iterator[MilvusClient]:
        """Lend the client for one call or a few.

        Raises `DataRefusedError` if the server refuses the data of a request, and `StoreUnavailableError` for anything
        else: it cannot be reached, refuses the connection, or refuses to work. Both have the server's own words.
        """
        import grpc

        import_pymilvus()
        from pymilvus.exceptions import MilvusException

        with self._slots:
            try:
                yield self._connected()
            except MilvusException as error:
                raise self._translate(error) from None
            except grpc.RpcError as error:
                raise self._translate_rpc(error) from None

    @property
    def is_lite(self) -> bool:
        """Whether the server is Milvus Lite, which answers some calls differently."""
        with self.client():
            return self._version.startswith("milvus_lite")

    def close(self) -> None:
        """Close the connection; the next use reopens it."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _connected(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                # pymilvus logs each error with a traceback before it raises it; we report it once.
                logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
                from pymilvus import MilvusClient

                client = MilvusClient(
                    **self._arguments,
                    timeout=_CONNECT_TIMEOUT_SECONDS,
                    # pymilvus' shared connection has the options of its first user and stays open.
                    dedicated=True,
                    grpc_options={"grpc.keepalive_time_ms": _KEEPALIVE_MS},
                )
                try:
                    self._version = client.get_server_version(timeout=_CONNECT_TIMEOUT_SECONDS)
                except BaseException:
                    client.close()  # A dedicated connection is kept by pymilvus until then.
                    raise
                self._client = client
            return self._client

    def _translate_rpc(self, error: Any) -> StoreUnavailableError:
        import grpc

        code = error.code() if isinstance(error, grpc.Call) else None
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return StoreUnavailableError(self._down(f"did not answer within {TIMEOUT_SECONDS} s"))
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:  # The server's, or a proxy's, limit of a message.
            return StoreUnavailableError(
                f"Milvus at {self.where} takes no requests of this size: {one_line(Exception(error.details()))}; "
                "raise proxy.grpc.serverMaxRecvSize in its configuration; nothing was lost"
            )
        return StoreUnavailableError(self._down(f"fails: {one_line(error)}"))

    def _translate(self, error: Any) -> RagError:
        text = _refused_login(error) or one_line(getattr(error, "message", None) or error)
        if _is_about_data(error):
            return DataRefusedError(f"Milvus at {self.where} refuses the data: {text}")
        if error.code == _RATE_LIMIT:
            return StoreUnavailableError(
                f"Milvus at {self.where} takes fewer requests than it gets: {_said_by_server(text)}; nothing was lost, "
                "run again later, or raise the rate under quotaAndLimits in its configuration"
            )
        if error.code in _SERVER_CODES and error.code not in _LOGIN_CODES:
            return self._refusal(_said_by_server(text))
        lowered = text.lower()
        if (
            "fail connecting" in lowered
            or "unavailable" in lowered
            or ("connect" in lowered and "fail" in lowered)
        ):
            return StoreUnavailableError(self._down("does not answer"))
        if "auth" in lowered or "permission" in lowered or "password" in lowered:
            return StoreUnavailableError(
                f"Milvus at {self.where} refuses the connection: {text}; correct RAG_MILVUS_URI"
            )
        if "deadline" in lowered or "timeout" in lowered or "timed out" in lowered:
            return StoreUnavailableError(self._down(f"did not answer within {TIMEOUT_SECONDS} s"))
        if "no space" in lowered or ("disk" in lowered and "full" in lowered):
            return StoreUnavailableError(f"Milvus at {self.where}: {text}; free some space there and run again")
        return self._refusal(text)

    def _refusal(self, text: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"Milvus at {self.where} refuses to work: {text}; nothing was lost, run again when it accepts requests"
        )

    def _down(self, reason: str) -> str:
        return (
            f"Milvus at {self.where} {reason}; start it (the embedded one: `rag-pipeline up`) and run again, "
            "nothing was lost"
        )


def _refused_login(error: BaseException) -> str:
    """Return the server's words where it refused the user or password; pymilvus says "Fail connecting" of that too."""
    import grpc

    cause = error.__cause__
    if isinstance(cause, grpc.RpcError) and cause.code() == grpc.StatusCode.UNAUTHENTICATED:
        return f"unauthenticated: {one_line(Exception(cause.details()))}"
    return ""


def _said_by_server(text: str) -> str:
    """Return an error without what pymilvus puts before it once it has tried again for as long as it may."""
    return text.partition(", message=")[2] or text if "Retry" in text else text


def _is_about_data(error: Any) -> bool:
    """Whether an error of pymilvus is about the data of the request. A list of those that are: new codes are not."""
    from pymilvus.exceptions import (
        DataNotMatchException,
        DataTypeNotMatchException,
        DataTypeNotSupportException,
        ParamError,
    )

    # Raised by the client before it sends anything.
    if isinstance(
        error, DataNotMatchException | DataTypeNotMatchException | DataTypeNotSupportException | ParamError
    ):
        return True
    if error.code == error.compatible_code == _LITE_ILLEGAL_ARGUMENT:
        return True
    return error.code in _DATA_CODES
