"""A month is embedded by workers of Ray: nothing twice, nothing missing, whichever of them dies, freezes or joins."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline_tests.ray_kills import start_run
from rag_pipeline_tests.support.command_line import CommandLine, assert_consistent, fill, one_line
from rag_pipeline_tests.support.document_files import pdf
from rag_pipeline_tests.support.ray_cluster import (
    BATCH,
    KILLER,
    POISON,
    Outcome,
    RayCluster,
    RayMonth,
    ray_cluster,
    wait_until,
)
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RIGHT = Outcome(0, 0, 0, 0, 0)
IN_FLIGHT = 3 * BATCH
"""A worker embeds one batch while it writes two."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: RayCluster) -> RayCluster:
    """Two nodes, with a worker each."""
    nodes.resize(2)
    return nodes


@pytest.fixture
def month(tmp_path: Path, stores: Stores, cluster: RayCluster) -> RayMonth:
    return RayMonth(tmp_path, stores, cluster)


def test_workers_share_a_month(month: RayMonth) -> None:
    chunks = month.fill(16)
    result = month.embed()
    assert month.outcome() == RIGHT
    assert (result.written, result.embedded, result.documents_switched) == (chunks, chunks, 16)
    assert month.cluster.embedded().total() == chunks
    first, second = result.workers
    assert first.done + second.done == chunks
    assert first.node != second.node
    for worker in result.workers:
        assert worker.done > 2 * BATCH
        assert worker.per_second > 0
        assert worker.end == ""
    password = month.endpoints.postgres_url.split(":")[2].split("@")[0]
    assert not [path for path in month.cluster.session_files() if password.encode() in path.read_bytes()]


def test_nodes_parse_documents_and_one_dies(month: RayMonth) -> None:
    lines = [f"索引を正しく保つ方法を述べる。{n}" for n in range(40)]
    for number in range(250):
        data = pdf(*[lines] * 3, info={"Title": f"文書{number}", "CreationDate": "D:20240305000000Z"})
        (month.docs / f"{number}.pdf").write_bytes(data)
    (month.docs / "broken.pdf").write_bytes(b"%PDF-1.7 no PDF at all")
    os.utime(month.docs / "broken.pdf", (1709600000, 1709600000))  # in March 2024

    def kill() -> None:
        wait_until(lambda: month.rows("SELECT id FROM documents LIMIT 1"))
        month.cluster.kill_node()

    result = month.ingest(kill)
    assert result.stored == 250
    assert [name for name, _ in result.quarantined] == ["docs:broken.pdf"]
    assert sum(worker.done for worker in result.workers) == 251
    assert len({worker.node for worker in result.workers if worker.done}) == 2


def test_workers_share_the_cutting_of_documents(month: RayMonth) -> None:
    month.store(300, paragraphs=8)
    result = month.chunk()
    assert result.documents == 300
    assert [worker.done > 0 for worker in result.workers] == [True, True]
    month.rows("CREATE TABLE cut AS SELECT document_id, position, content FROM document_chunks")
    month.rows("DELETE FROM document_chunks")
    month.rows("UPDATE documents SET processing_status = 'processing', indexing_status = 'pending'")
    assert month.chunk(ray_address=None).added == result.added
    cut = "SELECT document_id, position, content FROM document_chunks"
    assert month.rows(f"({cut} EXCEPT TABLE cut) UNION ALL (TABLE cut EXCEPT {cut})") == []


def test_a_node_that_dies_while_it_cuts(month: RayMonth) -> None:
    month.store(400, paragraphs=8)

    def kill() -> None:
        wait_until(lambda: month.rows("SELECT id FROM document_chunks LIMIT 1"))
        month.cluster.kill_node()

    month.chunk(kill)
    assert month.rows("SELECT processing_status, count(*) FROM documents GROUP BY 1") == [("completed", 400)]
    assert month.rows("SELECT document_id FROM document_chunks GROUP BY 1, position HAVING count(*) > 1") == []
    wrong = "SELECT id FROM documents d WHERE chunk_count <> (SELECT count(*) FROM document_chunks WHERE document_id = d.id)"
    assert month.rows(wrong) == []


def test_a_small_month_is_embedded_without_ray(month: RayMonth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    chunks = month.fill(1)
    result = month.embed(ray_from_chunks=chunks + 1)
    assert (result.written, result.workers) == (chunks, [])


def test_a_node_that_dies_costs_its_batches(month: RayMonth) -> None:
    month.fill(20)

    def kill() -> None:
        month.cluster.wait_for_embedded(5 * BATCH)
        month.cluster.kill_node()

    result = month.embed(kill)
    outcome = month.outcome()
    assert outcome.is_right
    assert outcome.embedded_again <= IN_FLIGHT
    assert [worker for worker in result.workers if worker.done and worker.end]


def test_a_node_that_is_added_takes_part(month: RayMonth) -> None:
    month.fill(30)

    def add() -> None:
        month.cluster.wait_for_embedded(2 * BATCH)
        month.cluster.add_node()

    result = month.embed(add)
    assert month.outcome() == RIGHT
    assert len({worker.node for worker in result.workers if worker.done}) == 3


def test_a_worker_that_is_killed_is_replaced(month: RayMonth) -> None:
    month.fill(20)

    def kill() -> None:
        month.cluster.wait_for_embedded(5 * BATCH)
        month.cluster.worker().kill()

    result = month.embed(kill)
    outcome = month.outcome()
    assert outcome.is_right
    assert outcome.embedded_again <= IN_FLIGHT
    assert len(result.workers) >= 3


def test_a_worker_that_lost_its_lease_maps_nothing(month: RayMonth, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray kills a frozen worker; one on a host that is cut off would live on, and come back.
    monkeypatch.setattr("rag_pipeline.distributed.fleet.Fleet._kill", lambda *_: None)
    month.fill(20)
    month.rows("CREATE TABLE mapped (chunk UUID, by TEXT)")
    month.rows(
        """
        CREATE FUNCTION note_mapped() RETURNS trigger AS $$
        BEGIN
            INSERT INTO mapped VALUES (NEW.id, current_setting('application_name'));
            RETURN NULL;
        END;
        $$ LANGUAGE plpgsql
        """
    )
    month.rows(
        "CREATE TRIGGER note_mapped AFTER UPDATE ON document_chunks FOR EACH ROW "
        "WHEN (NEW.embedding_status = 'completed' AND OLD.embedding_status <> 'completed') "
        "EXECUTE FUNCTION note_mapped()"
    )
    sessions = (
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'rag-pipeline _%'"
    )
    frozen: list[psutil.Process] = []

    writers = "SELECT DISTINCT by FROM mapped"

    def freeze() -> None:
        wait_until(lambda: len(month.rows(writers)) == 2)
        frozen.append(month.cluster.worker())
        before = len(month.rows(sessions))
        frozen[0].suspend()
        wait_until(lambda: len(month.rows(sessions)) < before)
        frozen[0].resume()

    try:
        result = month.embed(freeze)
        outcome = month.outcome()
    finally:
        for process in frozen:
            with suppress(psutil.Error):
                process.kill()
    assert outcome.is_right
    assert outcome.embedded_again <= IN_FLIGHT
    (lost,) = [worker for worker in result.workers if worker.end]
    assert "RAG_RAY_LEASE_SECONDS" in lost.end
    twice = "SELECT chunk FROM mapped GROUP BY chunk HAVING count(DISTINCT by) > 1"
    assert month.rows(twice) == []


def test_a_chunk_that_cannot_be_embedded_fails_alone(month: RayMonth) -> None:
    chunks = month.fill(8, first=POISON)
    result = month.embed()
    assert len(result.failed) == 1
    assert POISON in result.failed[0][1]
    assert result.written == chunks - 1
    assert month.rows("SELECT embedding_status, count(*) FROM document_chunks GROUP BY 1 ORDER BY 1") == [
        ("completed", chunks - 1),
        ("failed", 1),
    ]


def test_a_chunk_that_kills_workers_ends_the_run(month: RayMonth) -> None:
    chunks = month.fill(6, first=KILLER)
    with pytest.raises(StoreUnavailableError, match="3 workers died in a row and nothing was done"):
        month.embed()
    statuses = dict(month.rows("SELECT embedding_status, count(*) FROM document_chunks GROUP BY 1"))
    assert statuses.keys() == {"completed", "pending"}
    assert statuses["pending"] <= chunks // 2


def test_a_run_without_any_node_left_ends_with_one_line(month: RayMonth) -> None:
    month.fill(20)

    def kill_all() -> None:
        month.cluster.wait_for_embedded(3 * BATCH)
        month.cluster.resize(0)

    with pytest.raises(StoreUnavailableError, match="the Ray cluster at RAG_RAY_ADDRESS="):
        month.embed(kill_all)
    assert month.rows("SELECT count(*) FROM document_chunks WHERE embedding_status = 'processing'") == [(0,)]
    month.cluster.resize(2)
    month.embed()
    outcome = month.outcome()
    assert outcome.is_right
    assert outcome.embedded_again <= 2 * IN_FLIGHT


def test_the_run_itself_is_killed(month: RayMonth) -> None:
    month.fill(20)
    process = start_run(month)
    month.cluster.wait_for_embedded(4 * BATCH)
    process.send_signal(signal.SIGKILL)
    process.wait()
    month.embed()
    outcome = month.outcome()
    assert outcome.is_right
    assert outcome.embedded_again <= 2 * IN_FLIGHT


@pytest.mark.parametrize("address", ["127.0.0.1:1", "a.host.that.is.nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_named(month: RayMonth, address: str) -> None:
    month.fill(1)
    with pytest.raises(StoreUnavailableError, match=f"RAG_RAY_ADDRESS={address}") as raised:
        month.embed(ray_address=address)
    assert "\n" not in str(raised.value)
    assert month.rows("SELECT DISTINCT embedding_status FROM document_chunks") == [("pending",)]


def test_ingest_with_a_cluster_of_its_own(tmp_path: Path, stores: Stores) -> None:
    cli = CommandLine(tmp_path, stores)
    fill(cli, 20)
    log = tmp_path / "embedded.log"
    ray = {
        "RAG_RAY_ADDRESS": "local",
        "RAG_RAY_FROM_CHUNKS": "1",
        "RAG_RAY_FROM_DOCUMENTS": "1",
        "RAG_RAY_WORKERS": "1",
    }
    done = cli.run(
        "ingest", "--json", RAG_EMBEDDER=SLOW, RAG_TEST_EMBED_LOG=str(log), RAG_TEST_EMBED_SECONDS="0", **ray
    )
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)
    assert stats["embedded"] == stats["chunks"] > 50
    assert_consistent(cli)
    shown = "SELECT DISTINCT asset_key FROM dagster.event_logs WHERE asset_key IS NOT NULL AND event LIKE '%\"worker_deaths\"%'"
    # Not the documents: they are short, and parsed by the run.
    assert {json.loads(key)[0] for (key,) in cli.rows(shown)} == {
        "document_chunks",
        *(f"{kind}_collection" for kind in VECTOR_KINDS),
    }
    failed = cli.run("ingest", RAG_RAY_ADDRESS="nowhere")
    assert failed.returncode == 1
    assert "RAG_RAY_ADDRESS" in one_line(failed.stderr)


@pytest.mark.parametrize("address", ["local", "cluster"])
def test_ctrl_c_ends_at_once_and_leaves_no_worker(
    tmp_path: Path, stores: Stores, cluster: RayCluster, address: str
) -> None:
    cli = CommandLine(tmp_path, stores)
    fill(cli, 40)
    log = tmp_path / "embedded.log"
    log.touch()
    ray = {
        "RAG_RAY_ADDRESS": cluster.address if address == "cluster" else "local",
        "RAG_RAY_FROM_CHUNKS": "1",
        "RAG_RAY_FROM_DOCUMENTS": "1",
        "RAG_RAY_WORKERS": "2",
        "RAG_EMBEDDER": SLOW,
        "RAG_TEST_EMBED_LOG": str(log),
    }
    before = {process.pid for process in psutil.process_iter()}
    process = cli.start("ingest", **ray, RAG_TEST_EMBED_SECONDS="0.3")
    # Workers write into the log of their own environment on a cluster that was there before.
    shared = cluster.log if address == "cluster" else log
    shared.write_text("", "utf-8")
    wait_until(lambda: len(shared.read_text("utf-8").splitlines()) >= 2 * BATCH)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith(
        "rag-pipeline: interrupted: scanned 40 items, finished 0 months; months with pending work: 1"
    )
    assert "Traceback" not in err

    def left() -> list[str]:
        found = []
        for one in psutil.process_iter(["pid", "cmdline", "ppid"]):
            line = " ".join(one.info["cmdline"] or ())
            if one.info["pid"] not in before and (
                "ray::Worker" in line or (address == "local" and "raylet" in line)
            ):
                found.append(line[:120])
        return found

    wait_until(lambda: not left())
    # What was claimed is taken over at once: no lease is waited for.
    again = cli.json("ingest", **ray | {"RAG_RAY_ADDRESS": ""}, RAG_TEST_EMBED_SECONDS="0")
    assert again["months"] == ["2024-03"]
    assert_consistent(cli)


def test_a_generation_beside_the_live_one_is_built_by_workers_too(month: RayMonth) -> None:
    from rag_pipeline.generations import build, registry, switching
    from rag_pipeline.indexing.month_run import MonthRun

    chunks = month.fill(16)
    month.embed()
    with month.open() as pipeline:
        row = registry.begin(pipeline, same_settings=True)
        run = MonthRun()
        build.build_month(pipeline, row, build.pending_months(pipeline, row)[0], run)
        assert run.stats.chunks == chunks
        assert month.rows(f"SELECT count(*) FROM public_generation_{row.id}.document_chunks WHERE live") == [
            (chunks,)
        ]
        switching.switch(pipeline)
    assert month.outcome() == RIGHT
