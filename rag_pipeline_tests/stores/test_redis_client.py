"""The Redis client: a malformed URL is one line that shows no part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import ConfigError
from rag_pipeline.stores.connections import StoreConnections
from rag_pipeline.stores.redis_client import connect_redis
from rag_pipeline_tests.support.command_line import CommandLine, one_line
from rag_pipeline_tests.support.stores import Stores

MALFORMED = [
    "localhost:6379/geheim",
    "redis://:geheim/2@localhost:6379/0",
    "redis://:geheim@localhost:port/0",
    "redis://:geheim@localhost:70000/0",
    "redis://localhost/0?socket_timeout=geheim",
    "redis://localhost/0?geheim=1",
    "rediss://localhost/0?ssl_cert_reqs=geheim",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_one_line_without_the_url(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^RAG_REDIS_URL: ") as caught:
        connect_redis(url)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_client_is_made_without_connecting() -> None:
    with connect_redis("redis://:geheim@127.0.0.1:1/3", socket_timeout=2) as client:
        pool = client.connection_pool
    assert pool.max_connections == 20
    settings = pool.connection_kwargs
    assert (settings["db"], settings["socket_connect_timeout"], settings["socket_timeout"]) == (3, 1, 2)


def test_the_store_connections_report_it(server_endpoints: Endpoints) -> None:
    with (
        StoreConnections(replace(server_endpoints, redis_url=MALFORMED[1])) as stores,
        pytest.raises(ConfigError, match="RAG_REDIS_URL"),
    ):
        stores.redis.ping()


def test_an_ingest_reports_it_in_one_line(
    tmp_path: Path, server_endpoints: Endpoints, database_url: str, milvus_prefix: str
) -> None:
    endpoints = Endpoints(database_url, server_endpoints.milvus_uri, MALFORMED[1])
    cli = CommandLine(tmp_path, Stores(endpoints, milvus_prefix))
    (cli.docs / "a.md").write_text("# Backups\n\nRestore them once a month.\n", "utf-8")
    done = cli.run("ingest")
    assert done.returncode == 1
    assert "RAG_REDIS_URL: malformed" in one_line(done.stderr)
    assert "geheim" not in done.stdout + done.stderr
