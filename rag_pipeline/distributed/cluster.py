"""The cluster that `RAG_RAY_ADDRESS` names: joined for as long as a step needs it. Only this package imports Ray."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import ConfigError, StoreUnavailableError, one_line
from rag_pipeline.printable import blanked

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings

_log = logging.getLogger(__name__)

_PROBE_SECONDS = 5
_STOP_SECONDS = 30
_REASON_CHARS = 200


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Join a cluster, or start one, and leave it at the end. Yields the module `ray`.

    A program that has already joined one keeps it. Raises `ConfigError` if Ray is not installed, or another version than
    the cluster's, and `StoreUnavailableError` if nothing answers at the address.
    """
    if address == "local":
        # Whoever reaches a Ray cluster can run programs there. Read when Ray is imported, here and in what it starts.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "RAG_RAY_ADDRESS is set and Ray is not installed: pip install 'rag-pipeline[ray]', or unset it"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    with _started() if address == "local" else nullcontext(address) as head, _own_output(), _kept_handler():
        if head != "auto":
            _probe(head)
        try:
            ray.init(address=head, namespace="rag-pipeline", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            kind = StoreUnavailableError if isinstance(error, ConnectionError) else ConfigError
            raise kind(
                f"the Ray cluster at RAG_RAY_ADDRESS={address} cannot be joined: {one_line(error)}"
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _started() -> Iterator[str]:
    """Start a cluster of this machine, and stop it at the end. Yields the address of its head."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rag_pipeline.distributed.local_cluster"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ray would report the use of this cluster to its makers.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_USAGE_STATS_ENABLED": "0"},
        process_group=0,  # Ctrl-C is for the run, which then ends it
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    try:
        head = process.stdout.readline().strip()
        if not head:
            *_, reason = ["it gave no reason", *process.stderr.read().splitlines()]
            raise StoreUnavailableError(f"Ray cannot be started on this machine (RAG_RAY_ADDRESS=local): {reason}")
        yield head
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def room(ray: Any, settings: Settings) -> int:
    """Return how many workers the nodes of the cluster can hold, whoever uses them now."""
    wanted = {"CPU": settings.ray_worker_cpus, "GPU": settings.ray_worker_gpus}
    return sum(
        min(int(node["Resources"].get(name, 0) / amount) for name, amount in wanted.items() if amount)
        for node in ray.nodes()
        if node["Alive"]
    )


def node_name() -> str:
    """Return the address of the node that this runs on, and enough of its id to tell those of one machine apart."""
    import ray

    return f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:6]}"


def _probe(address: str) -> None:
    """Raise `StoreUnavailableError` soon if nobody listens, or it is not Ray: Ray tries for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
        reason = "" if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") else _not_ray(address)
    except (OSError, OverflowError) as error:
        reason = one_line(error)
    if reason:
        raise StoreUnavailableError(
            f"the Ray cluster at RAG_RAY_ADDRESS={address} does not answer ({reason}): start it, correct the address, or "
            "unset RAG_RAY_ADDRESS; nothing was lost"
        )


def _not_ray(address: str) -> str:
    """Return why what listens at an address cannot be the head of a Ray cluster; empty if it can."""
    import grpc

    # Through no proxy, as Ray goes.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        code, reason = _asked(channel, "CheckAlive")
        # One with a token, which is Ray's to send, refuses us; it still knows what it has not.
        if code not in (None, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return f"it is frozen, or not Ray's head: {reason}"
        code, _ = _asked(channel, "NoSuchMethod")
        return (
            ""
            if code is grpc.StatusCode.UNIMPLEMENTED
            else f"it is not Ray's head: {reason or 'it answers anything'}"
        )


def _asked(channel: Any, method: str) -> tuple[Any, str]:
    """Call a method of Ray's head without a message. Return the status, None if it succeeds, and a line about it."""
    import grpc

    try:
        channel.unary_unary(f"/ray.rpc.NodeInfoGcsService/{method}")(b"", timeout=_PROBE_SECONDS)
    except grpc.RpcError as error:
        details = " ".join(blanked(error.details() or "").split())
        return error.code(), f"{error.code().name} {details}"[:_REASON_CHARS].strip()
    return None, ""


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray sets a handler of its own, and leaves it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _OwnOutput(io.TextIOBase):
    """Standard output without the lines that Ray prints about its nodes, such as that one was lost: they are logged."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._in_thread = threading.local()

    def write(self, text: str) -> int:
        is_of_ray = "(raylet" in text.split("\n", 1)[0]
        # The end of a line is written by itself.
        left_out = is_of_ray or (text == "\n" and getattr(self._in_thread, "left_out", False))
        self._in_thread.left_out = is_of_ray and not text.endswith("\n")
        if is_of_ray:
            _log.info("Ray: %s", " ".join(text.split()))
        if left_out:
            return len(text)
        return int(self._output.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


@contextmanager
def _own_output() -> Iterator[None]:
    # The output of a command can be JSON. Ray prints from a thread of its own.
    with contextlib.redirect_stdout(_OwnOutput(sys.stdout)):
        yield
