"""The code location on the real stores, and a Dagster instance in the same PostgreSQL, as a deployment has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.code_location import CodeLocation
from rag_pipeline_tests.support.dagster_home import dagster_home
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace


@pytest.fixture
def location(tmp_path: Path, prepared_stores: Stores, monkeypatch: pytest.MonkeyPatch) -> CodeLocation:
    """A code location without documents; its RAG_* variables are set in this process."""
    workspace = Workspace(tmp_path, prepared_stores)
    for name, value in workspace.variables.items():
        monkeypatch.setenv(name, value)
    return CodeLocation(workspace)


@pytest.fixture
def instance(location: CodeLocation, prepared_stores: Stores) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance whose storage is the test's PostgreSQL database."""
    with dagster_home(load_settings(), prepared_stores.endpoints) as home:
        yield home.instance


@pytest.fixture
def defs(location: CodeLocation) -> dg.Definitions:
    from rag_pipeline.defs.build import build_defs

    return build_defs()
