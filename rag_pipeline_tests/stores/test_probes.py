"""A probe tells a usable server from an unusable one, and never shows the password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.local_servers.processes import free_port
from rag_pipeline.stores.probes import probe_milvus, probe_postgres, probe_redis

PROBES = [
    (probe_postgres, "postgresql://rag:geheim@{}/rag"),
    (probe_redis, "redis://:geheim@{}/0"),
    (probe_milvus, "http://root:geheim@{}"),
]


@pytest.fixture(params=[b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None], ids=["http", "closes", "silent"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that listens and is none of our servers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                if request.param is not None:
                    connection.sendall(request.param)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in connections:
        connection.close()


def test_real_servers_answer(stack_endpoints: Endpoints) -> None:
    probe_postgres(stack_endpoints.postgres_url)
    probe_redis(stack_endpoints.redis_url)
    probe_milvus(stack_endpoints.milvus_uri)


@pytest.mark.parametrize(("probe", "url"), PROBES)
def test_a_stranger_on_the_port_does_not_answer(probe: Callable[..., None], url: str, stranger: str) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        probe(url.format(stranger), timeout=0.5)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("probe", "url"), PROBES)
def test_nobody_on_the_port(probe: Callable[..., None], url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailableError, match="does not answer") as caught:
        probe(url.format(address))
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("probe", "url"), PROBES)
def test_a_malformed_address(probe: Callable[..., None], url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="check RAG_") as caught:
        probe(url.replace("geheim", "geheim%zz").format("127.0.0.1:port"))
    assert "geheim" not in str(caught.value)


def test_a_wrong_password_is_refused(stack_endpoints: Endpoints) -> None:
    for probe, url in (
        (probe_postgres, stack_endpoints.postgres_url),
        (probe_redis, stack_endpoints.redis_url),
    ):
        password = url.split("@")[0].rpartition(":")[2]
        with pytest.raises(StoreUnavailableError) as caught:
            probe(url.replace(password, "not-" + password))
        assert password not in str(caught.value)
