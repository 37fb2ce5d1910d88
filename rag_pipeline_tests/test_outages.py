"""A store goes away in the middle of an ingest and comes back: one line, then everything is right."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rag_pipeline.local_servers import LocalServers
from rag_pipeline_tests.support.command_line import TEXT, CommandLine, assert_consistent, one_line
from rag_pipeline_tests.support.servers import temporary_servers
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture(scope="module")
def own_servers() -> Iterator[LocalServers]:
    """Servers that may be killed: not those that other tests share."""
    with temporary_servers("outage") as servers:
        yield servers


def _kill(port: int) -> None:
    """Kill the server that listens on a port, and its children, without a chance to end well."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            for process in [
                psutil.Process(connection.pid),
                *psutil.Process(connection.pid).children(recursive=True),
            ]:
                os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError(f"nobody listens on {port}")


@pytest.mark.parametrize("store", ["milvus", "postgres"])
def test_a_store_killed_in_the_middle(own_servers: LocalServers, tmp_path: Path, store: str) -> None:
    endpoints = own_servers.up()
    cli = CommandLine(tmp_path, Stores(endpoints, "outages_"))
    for n in range(30):
        (cli.docs / f"{store}{n}.md").write_text(TEXT.format(n=f"{store}{n}"), "utf-8")
    cli.sources.write_text(f"sources: [{{name: {store}, type: filesystem, path: ./docs}}]\n", "utf-8")
    log = tmp_path / "embedded.log"
    slow = {
        "RAG_EMBEDDER": SLOW,
        "RAG_TEST_EMBED_LOG": str(log),
        "RAG_TEST_EMBED_SECONDS": "0.3",
    }
    process = cli.start("ingest", **slow)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text("utf-8").splitlines()) > 32):
        time.sleep(0.02)
    url = endpoints.milvus_uri if store == "milvus" else endpoints.postgres_url
    _kill(int(url.rsplit(":", 1)[1].split("/")[0]))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert "Traceback" not in err, err
    assert {"milvus": "Milvus", "postgres": "PostgreSQL"}[store] in one_line(
        "\n".join(line for line in err.splitlines() if line.startswith("rag-pipeline: "))
    )
    own_servers.up()
    found = cli.json("ingest", **slow)
    assert found["errors"] == []
    lines = log.read_text("utf-8").splitlines()
    assert len(lines) - len(set(lines)) <= 16, "more than one batch was embedded again"
    assert_consistent(cli)
    if store == "milvus":
        for path in cli.docs.iterdir():
            path.unlink()
        cli.json("ingest", "--confirm-deletions", **slow)
        cli.json("status")
