"""`rag-pipeline dev` as a user starts it: webserver, daemon and code location, on real stores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.live import Live, wait
from rag_pipeline_tests.support.stores import temporary_stores
from rag_pipeline_tests.support.workspace import Workspace, clean_environment

pytestmark = [
    pytest.mark.slow,
    # The client of Dagster uses a deprecated form of its own dependency.
    pytest.mark.filterwarnings("ignore:Using variable_values and operation_name:DeprecationWarning"),
]

JANUARY, FEBRUARY, MARCH, APRIL, MAY = (Month(2024, number) for number in range(1, 6))
COLLECTIONS = ("dense_collection", "sparse_collection", "multi_collection")

BACKFILL = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""
RUNS = """
query Runs($tag: String!) {
  runsOrError(filter: {tags: [{key: "dagster/backfill", value: $tag}]}) {
    ... on Runs { results { status tags { key value } } }
  }
}
"""
CHECKS = """
query Checks($asset: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $asset, checkName: $check, limit: 50) {
    runId status partition
    evaluation { description metadataEntries { ... on TableMetadataEntry { table { records } } } }
  }
}
"""
SOURCE = """
query {
  assetNodeOrError(assetKey: {path: ["sources", "docs"]}) {
    ... on AssetNode { freshnessStatusInfo { freshnessStatus } assetMaterializations(limit: 10) { timestamp } }
  }
}
"""
REMOVED_SOURCE = """
INSERT INTO alert_states (kind, name, partition, failing, since, log, event_id)
VALUES ('sensor', 'sync_removed of rag_pipeline', '', true, now(), 'log', 1)
"""
INDEXED = "SELECT count(*) FROM documents WHERE indexing_status = 'completed'"
EXECUTE_CHECKS = """
mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message }
  }
}
"""


@pytest.fixture(scope="module")
def live(server_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with (
        temporary_stores(server_endpoints, "live", redis_number=4) as stores,
        pytest.MonkeyPatch.context() as patch,
    ):
        workspace = Workspace(tmp_path_factory.mktemp("live"), stores)
        workspace.sources.write_text(
            "sources: [{name: docs, type: filesystem, path: ./docs, schedule: '* * * * *'}]\n", "utf-8"
        )
        for variable in set(os.environ) - set(clean_environment()):
            patch.delenv(variable)
        for variable, value in {**clean_environment(), **workspace.variables}.items():
            patch.setenv(variable, value)
        live = Live(workspace)
        try:
            live.write("backup.md", "2024-01-05", "# バックアップ\n\n毎晩三時に世代を取る。")
            live.write("restore.md", "2024-05-05", "# 復元\n\n新しい世代から戻す。")
            live.dropped_at = time.monotonic()
            live.rows(REMOVED_SOURCE)
            yield live
        finally:
            live.kill()


def stored(month: Month) -> int:
    with Pipeline(load_settings()) as pipeline:
        return pipeline.collections.stored("dense", month)


def test_months_appear_with_their_documents_and_a_run_and_a_backfill_by_hand_succeed(live: Live) -> None:
    wait("the months of the documents appear", 240, lambda: len(live.months()) == 2)
    for month in (APRIL, FEBRUARY, MARCH):
        live.rows(f"SELECT create_monthly_partition('{month.partition_key}')")
    wait("the other months appear", 240, lambda: len(live.months()) == 5)
    assert live.months() == [month.partition_key for month in (JANUARY, FEBRUARY, MARCH, APRIL, MAY)]
    answer = live.ask(
        BACKFILL,
        params={
            "assetSelection": [{"path": [name]} for name in ("documents", "document_chunks", *COLLECTIONS)],
            "partitionNames": [FEBRUARY.partition_key, MARCH.partition_key],
        },
    )["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    run = live.client.submit_job_execution("index_month", tags={"dagster/partition": APRIL.partition_key})

    ended = ("SUCCESS", "FAILURE", "CANCELED")
    status = wait("the run ends", 240, lambda: (s := live.client.get_run_status(run).value) in ended and s)
    assert status == "SUCCESS", live.log.read_text("utf-8")[-3000:]

    def backfilled() -> list[dict] | None:
        runs = live.ask(RUNS, tag=answer["backfillId"])["runsOrError"]["results"]
        return runs if len(runs) == 2 and all(r["status"] in ended for r in runs) else None

    assert [r["status"] for r in wait("the backfill ends", 240, backfilled)] == ["SUCCESS", "SUCCESS"]
    for asset, check in (("documents", "quarantined_documents"), ("dense_collection", "vectors_verified")):
        rows = live.ask(CHECKS, asset={"path": [asset]}, check=check)["assetCheckExecutions"]
        by_month = {(row["partition"], row["status"]) for row in rows}
        assert by_month >= {(month.partition_key, "SUCCEEDED") for month in (FEBRUARY, MARCH, APRIL)}
        assert len(by_month) == len(rows), "one evaluation per month"
        assert all(row["partition"] for row in rows)


def test_execute_all_on_a_checks_tab_checks_all_months(live: Live) -> None:
    """The button launches partitioned checks without a partition."""
    wait("documents of two months are indexed", 240, lambda: live.rows(INDEXED) == [(2,)])
    live.rows("UPDATE documents SET chunk_count = 99 WHERE source_id = 'docs:restore.md'")
    names = ["status_mismatches", "index_issues", "quarantined_documents"]
    answer = live.ask(
        EXECUTE_CHECKS,
        executionParams={
            "mode": "default",
            "executionMetadata": {"tags": []},
            "runConfigData": "{}",
            "selector": {
                "repositoryLocationName": "rag_pipeline",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [],
                "assetCheckSelection": [{"assetKey": {"path": ["documents"]}, "name": name} for name in names],
            },
        },
    )["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run = answer["run"]["id"]
    ended = ("SUCCESS", "FAILURE", "CANCELED")
    status = wait("the run ends", 240, lambda: (s := live.client.get_run_status(run).value) in ended and s)
    assert status == "SUCCESS", live.log.read_text("utf-8")[-3000:]
    for name, status in zip(names, ("FAILED", "SUCCEEDED", "SUCCEEDED"), strict=True):
        rows = live.ask(CHECKS, asset={"path": ["documents"]}, check=name)["assetCheckExecutions"]
        [row] = [row for row in rows if row["runId"] == run]
        assert (row["status"], row["partition"]) == (status, None)
    [found] = [
        row
        for row in live.ask(CHECKS, asset={"path": ["documents"]}, check=names[0])["assetCheckExecutions"]
        if row["runId"] == run
    ]
    assert found["evaluation"]["description"] == "months checked: 2, failing: 2024-05"
    [records] = [entry["table"]["records"] for entry in found["evaluation"]["metadataEntries"] if entry]
    assert [json.loads(record)["month"] for record in records] == ["2024-05", "2024-01"]
    live.rows(
        "UPDATE documents SET chunk_count = (SELECT count(*) FROM document_chunks WHERE document_id = documents.id)"
    )


def test_a_file_dropped_into_the_folder_is_searchable_without_a_click(live: Live) -> None:
    with Pipeline(load_settings()) as pipeline:
        found = wait(
            "the document is found",
            live.dropped_at + 240 - time.monotonic(),
            lambda: live.rows("SELECT 1 FROM document_chunks WHERE live") and search(pipeline, "毎晩の世代").hits,
        )
    assert found[0].title == "バックアップ"


def test_a_source_shows_its_scans_its_check_and_that_it_is_fresh(live: Live) -> None:
    def health() -> dict:
        return live.ask(SOURCE)["assetNodeOrError"]

    wait(
        "the source is fresh",
        180,
        lambda: (health()["freshnessStatusInfo"] or {}).get("freshnessStatus") == "HEALTHY",
    )
    wait("the next scan has a materialization of its own", 180, lambda: len(health()["assetMaterializations"]) > 1)
    rows = live.ask(CHECKS, asset={"path": ["sources", "docs"]}, check="source_readable")["assetCheckExecutions"]
    assert {(row["partition"], row["status"]) for row in rows} == {(None, "SUCCEEDED")}


def test_the_alert_of_a_source_that_was_removed_is_closed(live: Live) -> None:
    failing = "SELECT failing FROM alert_states WHERE name = 'sync_removed of rag_pipeline'"
    wait("the alert is closed", 180, lambda: live.rows(failing) == [(False,)])


def test_a_deletion_by_sql_reaches_milvus_by_itself(live: Live) -> None:
    assert stored(JANUARY) == 1
    live.rows("DELETE FROM documents")
    wait("the deletion reaches Milvus", 240, lambda: stored(JANUARY) == 0)
    wait("the outbox is empty", 240, lambda: live.rows("SELECT count(*) FROM vector_deletions") == [(0,)])


def test_the_search_page_is_there_and_comes_back_when_it_dies(live: Live) -> None:
    url = wait(
        "the page's address", 120, lambda: re.search(r"search service: (\S+)", live.log.read_text("utf-8"))
    )[1]
    assert f"{url}/link/" in live.log.read_text("utf-8")

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).json()["ready"]
        except httpx.TransportError:
            return False

    wait("the page is ready", 120, ready)
    service = next(p for p in psutil.Process(live.process.pid).children() if "serve" in p.cmdline())
    service.kill()
    wait(
        "the page is back",
        120,
        lambda: live.log.read_text("utf-8").count(f"search service: {url}") == 2 and ready(),
    )
    assert "the search service ended with exit code -9: it is started again in" in live.log.read_text("utf-8")


def test_a_second_dev_is_refused_and_names_the_first(live: Live) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "rag_pipeline.cli", "dev"],
        cwd=live.workspace.folder,
        capture_output=True,
        timeout=120,
    )
    assert second.returncode == 1
    [line] = second.stderr.decode().splitlines()
    assert f"already running in {live.workspace.folder / 'home'}: http://127.0.0.1:{live.port};" in line
    assert int(line.rpartition("kill ")[2]) == live.process.pid


def test_the_terminal_is_quiet(live: Live) -> None:
    log = live.log.read_text("utf-8")
    assert "index_month" in log or "resource:pipeline" in log
    for noise in (" - DEBUG - ", "SupersessionWarning", "SensorDaemon", "Stack Trace"):
        assert noise not in log
    full = live.workspace.folder / "home" / "logs" / "dagster.log"
    assert " - dagster - INFO - " in full.read_text("utf-8")
    assert full.stat().st_mode & 0o777 == 0o600


def test_term_stops_everything(live: Live) -> None:
    assert len(live.processes()) >= 4
    assert live.stop() == []
    assert live.process.wait(5) == 0
