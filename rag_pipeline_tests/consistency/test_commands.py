"""`rag-pipeline check` and `rag-pipeline repair`: exit codes and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rag_pipeline.cli import cli
from rag_pipeline.consistency.checks import CHECKS
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_check_repair_check(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path, stores)
    for month in ("2024-01", "2024-02"):
        workspace.write(f"{month}.md", f"# 見出し\n\n{month}の本文。\n", f"{month}-05")
    for name, value in workspace.variables.items():
        monkeypatch.setenv(name, value)
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        ingest(pipeline)

    code, found = run("check")
    assert (code, found["consistent"]) == (0, True)
    assert all(found[check] == [] for check in CHECKS)

    (row,) = workspace.rows("SELECT id::text FROM document_chunks WHERE document_created_at < '2024-02-01'")
    with milvus_client(stores.endpoints.milvus_uri) as client:
        client.delete(f"{stores.prefix}dense_collection", ids=[f"{row[0]}_dense"])

    code, found = run("check")
    assert (code, found["consistent"]) == (1, False)
    (finding,) = found["missing_vectors"]
    assert (finding["month"], finding["count"]) == ("2024-01", 1)
    assert finding["sample"][0]["chunk_id"] == row[0]
    assert "rag-pipeline repair --month 2024-01" in finding["what_to_do"]
    assert run("check", "--month", "2024-02")[0] == 0
    shown = CliRunner().invoke(cli, ["check"])
    assert shown.exit_code == 1
    assert row[0] in shown.stdout

    code, dry = run("repair", "--dry-run")
    assert (code, dry["months"], dry["remaining"]) == (0, ["2024-01"], dry["found"])
    assert run("check")[0] == 1
    code, repaired = run("repair", "--month", "2024-01")
    assert (code, repaired["consistent"], repaired["months"]) == (0, True, ["2024-01"])
    assert (repaired["embedded"], repaired["reused"]) == (0, 1)
    assert run("check")[0] == 0
