"""The variables of Dagster's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.settings import load_settings


def test_a_storage_that_is_set_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "postgresql+psycopg2://dagster@elsewhere/history"
    monkeypatch.setenv("DAGSTER_PG_URL", elsewhere)
    nowhere = Endpoints("postgresql://rag@127.0.0.1:1/rag", "", "")
    assert dagster_environment(load_settings(home=tmp_path / "home"), nowhere)["DAGSTER_PG_URL"] == elsewhere
