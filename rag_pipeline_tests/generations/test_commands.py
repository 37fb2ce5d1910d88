"""`rag-pipeline generations`, as processes: a build that is killed goes on, and every line says what to do."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline_tests.support.command_line import CommandLine, assert_consistent, fill, one_line
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW

_FILES = 4
_MANY = 20


@pytest.fixture
def cli(tmp_path: Path, prepared_stores: Stores) -> CommandLine:
    cli = CommandLine(tmp_path, prepared_stores)
    fill(cli, _FILES)
    assert cli.run("ingest").returncode == 0
    return cli


def wait_for_lines(log: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lose_collection(cli: CommandLine) -> None:
    """Lose what Milvus has of the dense vectors of the generation that is being built."""
    ((collections,),) = cli.rows("SELECT collections FROM generations WHERE state = 'building'")
    name = f"{cli.prefix}dense_{collections}"
    with milvus_client(cli.endpoints.milvus_uri) as client:
        for alias in client.list_aliases(collection_name=name, timeout=TIMEOUT_SECONDS)["aliases"]:
            client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
        client.drop_collection(name, timeout=TIMEOUT_SECONDS)


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on(cli: CommandLine, tmp_path: Path) -> None:
    fill(cli, _MANY)
    assert cli.run("ingest").returncode == 0
    log = tmp_path / "embedded"
    slow = {"RAG_EMBEDDER": SLOW, "RAG_CHUNK_TOKENS": "48", "RAG_TEST_EMBED_LOG": str(log)}
    process = cli.start("generations", "build", **slow)
    wait_for_lines(log, 48)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    listed = cli.json("generations", "list")["generations"]
    assert [one["state"] for one in listed] == ["live", "building"]
    assert listed[1]["pending_months"] == ["2024-03"]

    done = cli.json("generations", "build", **slow)

    assert done["pending_months"] == done["errors"] == []
    lose_collection(cli)
    done = cli.json("generations", "build", **slow)
    assert (done["months"], done["embedded"]) == (["2024-03"], 0)
    # At most the batches that were under way are embedded twice: those in the cache are not.
    times = Counter(log.read_text().splitlines())
    assert sum(times.values()) - len(times) <= 2 * 16
    # It can be searched before it is live.
    hits = cli.json("search", "見出し 2", "--generation", "2", "--limit", "1")["hits"]
    ((schema,),) = cli.rows(
        "SELECT tableoid::regclass::text FROM public_generation_2.document_chunks WHERE id = %s",
        hits[0]["chunk_id"],
    )
    assert schema.startswith("public_generation_2.")
    assert cli.json("generations", "switch", "--notice", "0")["id"] == 2
    assert_consistent(cli)
    assert cli.json("check")["consistent"]
    assert cli.json("generations", "rollback")["id"] == 1
    assert cli.json("generations", "drop", "2") == {"id": 2}
    assert_consistent(cli)
    assert [one["id"] for one in cli.json("generations", "list")["generations"]] == [1]


def test_a_plan_writes_nothing(cli: CommandLine) -> None:
    plan = cli.json("generations", "plan", RAG_CHUNK_TOKENS="32")
    assert plan["documents"] == plan["sampled_documents"] == _FILES
    assert plan["settings"]["chunk_tokens"] == 32
    assert plan["chunks"] > len(cli.rows("SELECT id FROM document_chunks"))
    assert plan["chunks"] / 2 < plan["to_embed"] < plan["chunks"]  # The shortest are cut as before, and cached.
    assert plan["bytes_in_milvus"] > plan["chunks"] * 64 * 4
    same = cli.json("generations", "plan")
    assert same["chunks"] == len(cli.rows("SELECT id FROM document_chunks"))
    assert same["to_embed"] == 0  # All of them are cached.
    assert cli.rows("SELECT id FROM generations") == [(1,)]


def test_mistakes_are_one_line_that_says_what_to_do(cli: CommandLine) -> None:
    for arguments, expected in {
        ("switch",): "no generation is being built: `rag-pipeline generations build`",
        ("rollback",): "there is no previous generation to go back to",
        ("build",): "these are the settings of generation 1, which is live",
        ("drop", "1"): "generation 1 is live: see `rag-pipeline generations list`",
        ("drop", "7"): "there is no generation 7: see `rag-pipeline generations list`",
    }.items():
        done = cli.run("generations", *arguments)
        assert done.returncode == 1
        assert expected in one_line(done.stderr)


def test_the_list_shows_the_settings_and_no_secret(cli: CommandLine) -> None:
    text = cli.run("generations", "list").stdout
    assert "live since" in text
    assert "RAG_CHUNK_TOKENS=64" in text
    stored = cli.rows("SELECT settings FROM generations")
    assert "password" not in json.dumps(stored)
