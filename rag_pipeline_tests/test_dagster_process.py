"""Dagster comes back when its daemon, its webserver or all of it ends, and nothing of it is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rag_pipeline import dagster_process, restart_pauses
from rag_pipeline.dagster_process import DagsterProcess
from rag_pipeline.local_servers.processes import ended, wait_until

STARTS = """
import subprocess, sys
for name in ("dagster._daemon", "code_server"):
    print(subprocess.Popen([sys.executable, "-c", "input()", name], stdin=subprocess.PIPE).pid, flush=True)
input()
"""


def dagster(
    folder: Path, code: str, started: Callable[[int], None], said: list[str], alerts: list[str]
) -> DagsterProcess:
    output = (folder / "output").open("ab")
    return DagsterProcess(
        [sys.executable, "-c", code],
        {},
        output,
        output.fileno(),
        report=said.append,
        alert=alerts.append,
        started=started,
    )


@pytest.fixture(autouse=True)
def input_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins live until they are killed, or this process ends."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: popen(*a, stdin=subprocess.PIPE, **options))


def test_dagster_that_ends_is_started_again_and_people_are_told_if_it_keeps_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart_pauses, "_HEALTHY_SECONDS", -1.0)
    monkeypatch.setattr(restart_pauses, "_FIRST_PAUSE", 0.0)
    started: list[int] = []
    said: list[str] = []
    alerts: list[str] = []

    def start(number: int) -> None:
        started.append(number)
        if len(started) == 5:
            raise KeyboardInterrupt
        psutil.Process(number).kill()

    with pytest.raises(KeyboardInterrupt), dagster(tmp_path, "input()", start, said, alerts) as running:
        running.keep_running()
    assert said == ["Dagster ended unexpectedly: it is started again in 0 s"] * 4
    assert alerts == ["Dagster keeps ending"]
    assert len(set(started)) == 5
    assert not any(map(psutil.pid_exists, started)), "the last one is stopped on leaving"


def test_dagster_that_never_works_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart_pauses, "_LONGEST_PAUSE", 0.0)
    said: list[str] = []
    alerts: list[str] = []
    with dagster(tmp_path, "raise SystemExit(2)", lambda number: None, said, alerts) as running:
        assert running.keep_running() == "Dagster ended 3 times soon after its start"
    assert (len(said), alerts) == (2, [])


def test_no_second_daemon_is_started_beside_one_that_is_left_and_runs_may_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart_pauses, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(dagster_process, "_STOP_SECONDS", 0.2)
    left: list[psutil.Process] = []

    def start(number: int) -> None:
        if left:
            daemon, server = left
            assert ended(daemon)
            assert server.is_running()
            raise KeyboardInterrupt
        assert wait_until(lambda: len(children()) == 2, lambda: True, 60)
        left.extend(map(psutil.Process, children()))
        assert wait_until(lambda: left[0].cmdline()[-1:] == ["dagster._daemon"], lambda: True, 60)
        psutil.Process(number).kill()

    def children() -> list[int]:
        return [int(line) for line in (tmp_path / "output").read_bytes().splitlines()]

    with pytest.raises(KeyboardInterrupt), dagster(tmp_path, STARTS, start, [], []) as running:
        running.keep_running()
    assert all(map(ended, left)), "all of it is stopped on leaving"
