"""A probe tells a usable server from an unusable one, and never shows the password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.local_servers.processes import free_port
from rag_pipeline.stores.milvus import client as milvus_client
from rag_pipeline.stores.milvus.client import Milvus
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


def test_real_servers_answer(server_endpoints: Endpoints) -> None:
    probe_postgres(server_endpoints.postgres_url)
    probe_redis(server_endpoints.redis_url)
    probe_milvus(server_endpoints.milvus_uri)


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


@pytest.mark.parametrize("stranger", [None], ids=["silent"], indirect=True)
def test_a_milvus_is_to_be_started_only_where_nobody_listens(
    stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is busy accepts connections, and says nothing for a while."""
    monkeypatch.setattr(milvus_client, "_CONNECT_TIMEOUT_SECONDS", 0.5)
    nobody = f"127.0.0.1:{free_port()}"
    for address, advice, other in ((stranger, "too busy", "start it"), (nobody, "start it", "too busy")):
        for ask in (lambda uri: Milvus(uri).is_lite, lambda uri: probe_milvus(uri, timeout=0.5)):
            with pytest.raises(StoreUnavailableError) as caught:
                ask(f"http://root:geheim@{address}")
            said = str(caught.value)
            assert address in said
            assert advice in said
            assert other not in said
            assert "geheim" not in said
            assert "\n" not in said


@pytest.mark.parametrize(("probe", "url"), PROBES)
def test_a_malformed_address(probe: Callable[..., None], url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="check RAG_") as caught:
        probe(url.replace("geheim", "geheim%zz").format("127.0.0.1:port"))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://root:geheim@milvus.example/db", ("milvus.example", 443)),
        ("http://milvus.example", ("milvus.example", 19530)),
        ("tcp://milvus.example", ("milvus.example", 19530)),
        ("https://milvus.example:19530", ("milvus.example", 19530)),
        ("https://[::1]", ("::1", 443)),
    ],
)
def test_the_probe_asks_where_the_client_connects(
    uri: str, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(where: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(where)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(StoreUnavailableError, match="refused"):
        probe_milvus(uri)
    assert asked == [address]
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    assert Milvus(uri).where == f"{host}:{address[1]}"


def test_a_wrong_password_is_refused(server_endpoints: Endpoints) -> None:
    for probe, url in (
        (probe_postgres, server_endpoints.postgres_url),
        (probe_redis, server_endpoints.redis_url),
    ):
        password = url.split("@")[0].rpartition(":")[2]
        with pytest.raises(StoreUnavailableError) as caught:
            probe(url.replace(password, "not-" + password))
        assert password not in str(caught.value)


def test_a_client_of_milvus_with_a_wrong_password_says_so(server_endpoints: Endpoints) -> None:
    parts = urlsplit(server_endpoints.milvus_uri)
    milvus = Milvus(f"http://{parts.username}:falsch@{parts.hostname}:{parts.port}")
    expected = pytest.raises(StoreUnavailableError, match="wrong user or password; correct RAG_MILVUS_URI")
    with expected as caught, milvus.client():
        pass
    assert "falsch" not in str(caught.value)
