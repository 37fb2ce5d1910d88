"""`rag-pipeline check` and `rag-pipeline repair`: exit codes and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from rag_pipeline.cli import cli
from rag_pipeline.consistency.checks import CHECKS
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.milvus_client import milvus_client


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_check_repair_check(
    tmp_path: Path,
    stack_endpoints: Endpoints,
    database_url: str,
    redis_url: str,
    milvus_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "docs").mkdir()
    for month in ("2024-01", "2024-02"):
        text = f"---\ndate: {month}-05\n---\n# 見出し\n\n{month}の本文。\n"
        (tmp_path / "docs" / f"{month}.md").write_text(text, "utf-8")
    (tmp_path / "sources.yaml").write_text("sources: [{name: docs, type: filesystem, path: ./docs}]\n", "utf-8")
    variables = {
        "RAG_HOME": tmp_path / "home",
        "RAG_SOURCES": tmp_path / "sources.yaml",
        "RAG_POSTGRES_URL": database_url,
        "RAG_MILVUS_URI": stack_endpoints.milvus_uri,
        "RAG_REDIS_URL": redis_url,
        "RAG_MILVUS_PREFIX": milvus_prefix,
        "RAG_EMBEDDER": "rag_pipeline_tests.embedders:cheap",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        ingest(pipeline)

    code, found = run("check")
    assert (code, found["consistent"]) == (0, True)
    assert all(found[check] == [] for check in CHECKS)

    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT id::text FROM document_chunks WHERE document_created_at < '2024-02-01'"
        ).fetchone()
    assert row
    with milvus_client(stack_endpoints.milvus_uri) as client:
        client.delete(f"{milvus_prefix}dense_collection", ids=[f"{row[0]}_dense"])

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
