"""Probes that ask a server in its own protocol whether it is up; for embedded and external servers alike.

Each probe returns if the server answers, and otherwise raises `StoreUnavailableError`: one line without the password.
`timeout` is in seconds.
"""

from __future__ import annotations

import socket
import ssl

from rag_pipeline.endpoints import MilvusAddress, milvus_address
from rag_pipeline.errors import ConfigError, StoreUnavailableError, one_line
from rag_pipeline.redis_errors import refuses_writes
from rag_pipeline.stores.redis_client import connect_redis
from rag_pipeline.urls import mask_url

START_IT = "start it (the embedded one: `rag-pipeline up`)"
"""What to do about a server where nobody answers."""
WAIT_FOR_IT = "it runs but is too busy, or is still starting: wait, or stop other work,"
"""What to do about one that takes connections but gives no answer in time; "and" follows."""
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class WritesRefusedError(StoreUnavailableError):
    """The server runs and answers, and takes no writes."""


def probe_postgres(url: str, timeout: float = 2) -> None:
    """Log in and run `SELECT 1`."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=max(2, round(timeout))) as connection:
            connection.execute("SELECT 1")
    except psycopg.ProgrammingError:
        # libpq quotes what it could not read, which can be part of the password.
        raise StoreUnavailableError("PostgreSQL: the URL is malformed: check RAG_POSTGRES_URL") from None
    except psycopg.Error as error:
        raise _unavailable("PostgreSQL", url, error) from None


def probe_redis(url: str, timeout: float = 2) -> None:
    """Log in and ping. Raises a `WritesRefusedError` if the server runs and takes no writes."""
    import redis

    try:
        client = connect_redis(url, connect_timeout=timeout, socket_timeout=timeout)
    except ConfigError:
        raise StoreUnavailableError("Redis: the URL is malformed: check RAG_REDIS_URL") from None
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        if refuses_writes(error):
            raise WritesRefusedError(f"refuses writes: {one_line(error)}") from None
        raise _unavailable("Redis", url, error) from None
    finally:
        client.close()


def probe_milvus(uri: str, timeout: float = 2) -> None:
    """Open an HTTP/2 connection, which gRPC uses, without logging in.

    Written by hand after RFC 9113, section 3.4: pymilvus takes seconds to import, and gRPC, once in use, logs warnings
    about every process that is started afterwards.
    """
    address = milvus_address(uri)
    connected = False
    try:
        with socket.create_connection((address.host, address.port), timeout) as connection:
            connected = True
            if address.secure:
                context = ssl.create_default_context()
                context.set_alpn_protocols(["h2"])
                connection = context.wrap_socket(connection, server_hostname=address.host)
            connection.sendall(_HTTP2_PREFACE + _HTTP2_SETTINGS)
            with connection.makefile("rb") as answer:
                # The first frame holds the server's settings: three bytes of length, then the type.
                frame = answer.read(9)
    except OSError as error:
        if connected and isinstance(error, TimeoutError):
            raise StoreUnavailableError(
                f"Milvus at {mask_url(uri)} did not answer within {timeout:g} s; {WAIT_FOR_IT} and run again"
            ) from None
        raise _unavailable("Milvus", uri, error) from None
    if frame[3:4] != b"\x04":
        raise _unavailable("Milvus", uri, ValueError("it does not speak gRPC"))


def accepts_connections(address: MilvusAddress, timeout: float = 2) -> bool:
    """Whether somebody listens there: the system accepts connections for a process that is too busy to do so."""
    try:
        socket.create_connection((address.host, address.port), timeout).close()
    except OSError:
        return False
    return True


def _unavailable(name: str, url: str, error: BaseException) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{name} at {mask_url(url)} does not answer: {mask_url(one_line(error))}; {START_IT}"
    )
