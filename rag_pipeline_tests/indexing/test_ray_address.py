"""What `RAG_RAY_ADDRESS` names is asked whether it is Ray before it is joined: needs no Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from rag_pipeline.distributed import cluster
from rag_pipeline.errors import StoreUnavailableError

SERVICE = "ray.rpc.NodeInfoGcsService"


class _Login(grpc.ServerInterceptor):
    """A server of something else that wants a login for whatever it is asked, as Milvus can."""

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong\nuser")
        )


def _head(code: grpc.StatusCode | None) -> Any:
    """Ray's head, as far as it is asked."""

    def check_alive(request: bytes, context: Any) -> bytes:
        return b"" if code is None else context.abort(code, "InvalidAuthToken")

    handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(check_alive)}
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


@contextmanager
def _grpc_server(*handlers: Any, login: bool = False) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[_Login()] if login else [])
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextmanager
def _http_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def _nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAUTHENTICATED])
def test_a_head_of_ray_is_joined_with_and_without_a_token(code: grpc.StatusCode | None) -> None:
    with _grpc_server(_head(code)) as address:
        cluster._probe(address)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (_nobody, "refused"),
        (_silent, "it is frozen, or not Ray's head"),
        (_http_server, "it is frozen, or not Ray's head"),
        (_grpc_server, "UNIMPLEMENTED"),
        (lambda: _grpc_server(login=True), "it is not Ray's head: UNAUTHENTICATED wrong user"),
    ],
    ids=["nobody", "silent", "HTTP", "another gRPC", "another gRPC with a login"],
)
def test_what_is_not_ray_is_told_in_one_line_and_soon(
    server: Any, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "_PROBE_SECONDS", 2)
    began = time.monotonic()
    with server() as address, pytest.raises(StoreUnavailableError) as raised:
        cluster._probe(address)
    assert time.monotonic() - began < 20
    assert str(raised.value).startswith(f"the Ray cluster at RAG_RAY_ADDRESS={address} does not answer (")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
