"""Dagster's own commands in the repository's folder, as in any Dagster project."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from rag_pipeline_tests.support.live import Live, wait
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace, clean_environment

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://rag:hunter2@127.0.0.1:9/rag"


def dagster(arguments: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dagster", *arguments],
        cwd=ROOT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_definitions_are_validated_without_any_server(tmp_path: Path) -> None:
    for variables in ({}, {"RAG_POSTGRES_URL": NOWHERE}):
        ran = dagster(["definitions", "validate"], {"RAG_HOME": str(tmp_path / "home"), **variables})
        assert ran.returncode == 0, ran.stderr
        assert "Validation successful for code location rag_pipeline" in ran.stdout
    assert not (tmp_path / "home").exists()


def test_dg_loads_the_same_module_under_the_same_name_as_the_workspace() -> None:
    """Sensors and schedules keep their cursors and states under the location's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["dg"]["project"]
    [place] = yaml.safe_load((ROOT / "workspace.yaml").read_text("utf-8"))["load_from"]
    assert place["python_module"] == {
        "module_name": project["code_location_target_module"],
        "location_name": project["code_location_name"],
    }


def test_without_servers_dagster_dev_says_in_one_line_how_to_start_them(tmp_path: Path) -> None:
    ran = dagster(["dev"], {"RAG_HOME": str(tmp_path)})
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        f"Error: no PostgreSQL under {tmp_path}: run `rag-pipeline up` first, or set RAG_HOME to the folder of its "
        "data or RAG_POSTGRES_URL to its address"
    )
    everywhere = {"RAG_MILVUS_URI": "http://127.0.0.1:9", "RAG_REDIS_URL": "redis://127.0.0.1:9"}
    ran = dagster(["dev"], {"RAG_HOME": str(tmp_path), "RAG_POSTGRES_URL": NOWHERE, **everywhere})
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: PostgreSQL at 127.0.0.1:9/rag: ")
    assert "Traceback" not in ran.stderr
    assert "hunter2" not in ran.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using variable_values and operation_name:DeprecationWarning")
def test_dagster_dev_works_and_records_its_runs_beside_the_index(tmp_path: Path, stores: Stores) -> None:
    workspace = Workspace(tmp_path, stores)
    live = Live(workspace, ("dagster", "dev"), ROOT, clean_environment() | workspace.variables)
    try:
        run = live.client.submit_job_execution("create_partitions")
        wait("the run ends", 240, lambda: live.client.get_run_status(run).value == "SUCCESS")
    finally:
        live.kill()
    assert ("create_partitions", "SUCCESS") in live.rows("SELECT pipeline_name, status FROM dagster.runs")
    assert live.rows("SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = 'runs'") == [(0,)]
