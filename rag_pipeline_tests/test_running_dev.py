"""What other commands do in the home of a `dev` that runs: they find its addresses, and leave its servers alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rag_pipeline import dev
from rag_pipeline.cli import server_commands
from rag_pipeline.dagster_home import shipped
from rag_pipeline.dev import _free_port, _only_one, _unused_configuration, refuse_beside_dev
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import RagError
from rag_pipeline.local_servers import LocalServers
from rag_pipeline.running_dev import RunningDev, publish, running_dev
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.support.workspace import clean_environment

UI, PAGE = "http://127.0.0.1:3071", "http://127.0.0.1:8071"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dagster(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process that `dev` starts, which has its lock and lives until its input ends."""
    command = [sys.executable, "-c", "input()", "dagster", "dev"]
    with _only_one(home) as lock:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[lock])
        publish(lock, process.pid, UI, PAGE)
    with process:
        yield process


def test_links_lead_to_the_dev_of_the_home(
    home: Path, dagster: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running_dev(home) == RunningDev(os.getpid(), UI, PAGE)
    settings = load_settings()
    assert (settings.ui_url, settings.search_url) == (UI, PAGE)
    monkeypatch.setenv("RAG_SEARCH_URL", "https://search.example.com")
    settings = load_settings()
    assert (settings.ui_url, settings.search_url) == (UI, "https://search.example.com")
    monkeypatch.delenv("RAG_SEARCH_URL")
    dagster.communicate()
    assert running_dev(home) is None
    settings = load_settings()
    assert (settings.ui_url, settings.search_url) == ("http://127.0.0.1:3000", "http://127.0.0.1:8000")


@pytest.mark.parametrize("left", ["", "17", f"1 1 {UI} {PAGE}", f"{'9' * 30} 1 {UI} {PAGE}"])
def test_what_another_process_left_is_no_dev(home: Path, left: str) -> None:
    (home / "dev.lock").write_text(left, "utf-8")
    assert running_dev(home) is None
    refuse_beside_dev(home)


def test_down_stops_nothing_while_dev_runs(home: Path, dagster: subprocess.Popen[bytes]) -> None:
    done = subprocess.run([sys.executable, "-m", "rag_pipeline.cli", "down"], capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line == (
        "rag-pipeline: nothing was stopped, as dev would start it again: rag-pipeline dev is already running in "
        f"{home}: {UI}; to stop it, press Ctrl-C there, or: kill {os.getpid()}"
    )
    dagster.communicate()
    done = subprocess.run([sys.executable, "-m", "rag_pipeline.cli", "down"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_a_configuration_of_dagster_that_is_not_ours_is_said_to_be_unused(tmp_path: Path) -> None:
    """Dagster itself warns of ours, in a checkout, where it is used: the first line that a new user would see."""
    assert _unused_configuration(shipped("dagster.yaml").parent) is None
    assert _unused_configuration(tmp_path) is None
    (tmp_path / "dagster.yml").touch()
    assert _unused_configuration(tmp_path) == tmp_path / "dagster.yml"


def test_a_dev_that_is_starting_has_no_address(home: Path) -> None:
    with _only_one(home):
        assert running_dev(home) is None
        with pytest.raises(RagError, match="it is starting"):
            refuse_beside_dev(home)


@pytest.mark.parametrize("arguments", ["serve --port", "dev --port", "dev --search-port"])
@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_what_is_no_port_is_refused(arguments: str, port: str) -> None:
    command, option = arguments.split()
    refused = CliRunner().invoke(getattr(server_commands, command), [option, port])
    assert (refused.exit_code, "1<=x<=65535" in refused.output) == (2, True)


def test_the_next_free_port_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "port_is_free", lambda port: port in (65535, 65536))
    assert _free_port(65530, "--port") == 65535
    with pytest.raises(RagError, match="65530 to 65535 are all taken: choose one with --port"):
        monkeypatch.setattr(dev, "port_is_free", lambda port: False) or _free_port(65530, "--port")


INTERRUPTED = """
import os, signal, sys
from rag_pipeline.dev import run_dev
from rag_pipeline.settings import load_settings

def report(line):
    print(line, flush=True)
    if line.startswith("Valkey: started") or line == "stopping":
        os.kill(os.getpid(), signal.SIGTERM)

sys.exit(run_dev(load_settings(), "127.0.0.1", (3000, 8000), report, lambda: None, lambda: None))
"""


def test_a_dev_that_is_ended_while_it_starts_leaves_no_server(home: Path, server_endpoints: Endpoints) -> None:
    variables = {
        "RAG_HOME": str(home),
        "RAG_POSTGRES_URL": server_endpoints.postgres_url,
        "RAG_MILVUS_URI": server_endpoints.milvus_uri,
    }
    dev = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    left = LocalServers(load_settings()).running()
    LocalServers(load_settings()).down()
    assert left == []
    assert (dev.returncode, dev.stdout.splitlines()[-2:]) == (0, ["stopping", "Valkey: stopped"]), dev.stderr
