"""A server that dies while `rag-pipeline dev` runs comes back by itself."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from pydantic import SecretStr

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.local_servers import LocalServers, supervision
from rag_pipeline.local_servers.supervision import Supervisor
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline_tests.support.servers import remove_home

SECONDS = 60


@pytest.fixture
def settings(tmp_path: Path, server_endpoints: Endpoints) -> Iterator[Settings]:
    """A home where only Valkey is embedded, and running."""
    home = tmp_path / "home"
    settings = load_settings(
        home=home,
        postgres_url=server_endpoints.postgres_url,
        milvus_uri=server_endpoints.milvus_uri,
        redis_url=None,
    )
    yield settings
    remove_home(home)


def kill(servers: LocalServers) -> None:
    [server] = servers._started().values()
    process = server.process()
    assert process
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=SECONDS)


def test_a_killed_server_is_restarted_and_people_are_told_if_it_keeps_dying(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(supervision, "_LONGEST_PAUSE", 0.1)
    servers = LocalServers(settings)
    url = servers.up().redis_url
    lines: queue.Queue[str] = queue.Queue()
    prepared: queue.Queue[bool] = queue.Queue()
    alerts: list[str] = []
    with Supervisor(servers, report=lines.put, restarted=lambda: prepared.put(True), alert=alerts.append):
        for death in range(1, 5):
            kill(servers)
            if death > 1:
                assert "again: restarting in 0.1 s" in lines.get(timeout=SECONDS)
            assert lines.get(timeout=SECONDS) == "Valkey ended unexpectedly and was restarted"
            assert prepared.get(timeout=SECONDS)
            with redis.Redis.from_url(url) as client:
                assert client.ping()
    assert len(alerts) == 1
    assert "Valkey keeps ending" in alerts[0]
    assert lines.empty()
    kill(servers)
    assert servers.dead() == ["Valkey"], "nobody watches any more"


def test_what_was_running_before_can_be_left_running(settings: Settings) -> None:
    servers = LocalServers(settings)
    assert servers.running() == []
    servers.up()
    assert servers.running() == ["redis"]
    servers.down(leave=["redis"])
    assert servers.running() == ["redis"]
    replaced = LocalServers(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    assert replaced.running() == ["redis"], "it runs, whoever needs it"
    servers.down()
    assert servers.running() == []
