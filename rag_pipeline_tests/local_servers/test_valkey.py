"""An embedded Redis whose disk is full runs: nothing says that it is down, or is to be started. It can be stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from rag_pipeline.embedding import cache as cache_module
from rag_pipeline.embedding.cache import EmbeddingCache, encode_cached
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.local_servers import LocalServers
from rag_pipeline.stores.redis_client import connect_redis
from rag_pipeline_tests.support.command_line import CommandLine, one_line
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.stores import Stores

LOST = "what it had not saved of embedding_cache, sessions and search caches is lost"


@pytest.fixture
def cli(tmp_path: Path, prepared_stores: Stores) -> Iterator[CommandLine]:
    """A command line with a Valkey of its own, which refuses writes."""
    cli = CommandLine(tmp_path, prepared_stores)
    del cli.environment["RAG_REDIS_URL"]
    servers = LocalServers(cli.settings(redis_url=None))
    stopped: list[str] = []
    url = servers.up().redis_url
    try:
        with redis.Redis.from_url(url) as client:
            client.config_set("save", "3600 1000000")
            shutil.rmtree(tmp_path / "home" / "valkey" / "data")
            client.bgsave()
            deadline = time.monotonic() + 30
            while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
                assert time.monotonic() < deadline
                time.sleep(0.01)
        cli.endpoints = Endpoints(cli.endpoints.postgres_url, cli.endpoints.milvus_uri, url)
        yield cli
    finally:
        servers.down(stopped.append)
    [said] = [line for line in stopped if line.startswith("Valkey")]
    assert said.startswith(f"Valkey: stopped; {LOST}: it refuses writes: MISCONF")
    assert not (tmp_path / "home" / "valkey" / "valkey.pid").exists(), "it has ended by itself, and was not killed"


def test_a_redis_that_refuses_writes_is_running(
    cli: CommandLine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cli.json("status", code=1)["redis"]
    assert found["running"]
    assert found["problem"].startswith("refuses writes: MISCONF")
    assert "running on port" in cli.run("up").stderr
    cli.write("a.md", "本文。")
    done = cli.run("ingest")
    line = one_line("\n".join(one for one in done.stderr.splitlines() if one.startswith("rag-pipeline: ")))
    assert "Redis refuses writes: everything was done without embedding_cache; mend what it says: MISCONF" in line
    monkeypatch.setattr(cache_module, "_warned", False)
    encode_cached(
        CheapEmbedder(), EmbeddingCache(connect_redis(cli.endpoints.redis_url), "cheap-64", 30), ["a"], ["dense"]
    )
    assert (
        "embedding_cache: Redis refuses writes; texts are re-embedded until it takes them: MISCONF" in caplog.text
    )
