"""What is ours is closed to other users, and nobody else's folder is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.private_files import make_home
from rag_pipeline_tests.support.servers import embedded

CLOSED = 0o711 if os.geteuid() == 0 else 0o700


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    path.chmod(0o2775)
    return path


def test_a_new_home_is_closed_and_the_folders_above_it_are_not(tmp_path: Path) -> None:
    make_home(tmp_path / "above" / "home")
    assert mode(tmp_path / "above" / "home") == CLOSED
    assert mode(tmp_path / "above") & 0o055 == 0o055 & ~os.umask(os.umask(0))


def test_an_existing_home_is_closed_if_it_holds_only_what_is_ours(home: Path) -> None:
    (home / "stack.json").write_text("{}")
    (home / "stack.lock").touch()
    (home / "dagster").mkdir()
    make_home(home)
    assert mode(home) == 0o2000 | CLOSED
    home.chmod(0o500)
    make_home(home)
    assert mode(home) == 0o500, "nothing is ever opened"


def test_a_folder_that_holds_anything_else_is_not_ours(home: Path) -> None:
    (home / "stack.json").write_text("{}")
    (home / "pyproject.toml").touch()
    make_home(home)
    assert mode(home) == 0o2775


def test_dagster_and_the_logs_of_its_runs_are_closed(home: Path, server_endpoints: Endpoints) -> None:
    (home / "dagster").mkdir()
    (home / "dagster").chmod(0o755)
    (home / "pyproject.toml").touch()
    dagster_environment(embedded(home, **vars(server_endpoints)), server_endpoints)
    assert mode(home / "dagster") == 0o700
    assert mode(home) == 0o2775
