"""`rag-pipeline serve --workers 2`, as a user starts it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest

from rag_pipeline.service.workers import remove_left_behind
from rag_pipeline_tests.support.http_service import bearer, new_key
from rag_pipeline_tests.support.live import free_port
from rag_pipeline_tests.support.search_index import SearchIndex
from rag_pipeline_tests.support.workspace import clean_environment

pytestmark = pytest.mark.slow

T = TypeVar("T")
_GRACE_SECONDS = 20
"""The 12 of the service, and what starting and ending Python takes on a busy machine."""
_COMMAND = (sys.executable, "-m", "rag_pipeline.cli", "serve", "--workers", "2")


class Workers:
    """A running service of two workers and what it said."""

    def __init__(self, index: SearchIndex, log: Path, variables: Mapping[str, str], *options: str) -> None:
        self.port = free_port()
        self.log = log
        with log.open("wb") as file:
            self.process = psutil.Popen(
                [*_COMMAND, "--port", str(self.port), *options],
                env=clean_environment() | index.variables | variables,
                cwd=index.folder,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8")

    def pids(self) -> set[int]:
        """Return the workers that have metrics, and so the application."""
        with_metrics = {int(path.stem.rpartition("_")[2]) for path in self.metrics_folder().glob("gauge_*.db")}
        return with_metrics & {process.pid for process in self.process.children()}

    def metrics_folder(self) -> Path:
        for process in self.process.children():
            with suppress(psutil.Error):
                if name := process.environ().get("PROMETHEUS_MULTIPROC_DIR"):
                    return Path(name)
        return Path("/nonexistent")

    def ask(self, key: str, count: int, query: str = "豆腐") -> list[int]:
        """Search so often, over connections that are opened at once."""

        def one(number: int) -> int:
            return httpx.post(
                f"http://127.0.0.1:{self.port}/v1/search",
                json={"query": f"{query} {number}"},
                headers=bearer(key),
                timeout=30,
                trust_env=False,
            ).status_code

        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(one, range(count)))

    def searches(self, key: str) -> int:
        """Return how many searches the service has answered, as its metrics say."""
        text = httpx.get(
            f"http://127.0.0.1:{self.port}/metrics", headers=bearer(key), timeout=30, trust_env=False
        ).text
        assert "\nrag_searches_waiting 0.0\n" in text
        found = re.search(r'^rag_requests_total\{route="/v1/search",status="200"\} (\S+)$', text, re.M)
        return int(float(found[1])) if found else 0

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def started(index: SearchIndex, *options: str, **variables: str) -> Iterator[Workers]:
    workers = Workers(index, index.folder / "serve.log", variables, *options)
    try:
        yield workers
    finally:
        with suppress(psutil.NoSuchProcess):
            for process in workers.tree():
                process.kill()
        workers.process.wait()


def until(workers: Workers, ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < deadline, workers.said
        time.sleep(0.1)
    return answer


def ready(workers: Workers) -> set[int]:
    """Wait until both workers run; return their pids."""

    def both() -> set[int] | None:
        assert workers.process.poll() is None, workers.said
        return found if len(found := workers.pids()) == 2 and "search service: " in workers.said else None

    return until(workers, both)


def answered(workers: Workers) -> set[int]:
    """Return the workers that have answered a search: only then has its file the route."""
    return {
        int(path.stem.rpartition("_")[2])
        for path in workers.metrics_folder().glob("counter_*.db")
        if b"/v1/search" in path.read_bytes()
    }


@pytest.fixture
def key(index: SearchIndex) -> str:
    return new_key(index.pipeline, "a@example.com", "search", "metrics", role="admin")


def test_both_workers_answer_and_one_that_is_killed_comes_back(index: SearchIndex, key: str):
    with started(index) as workers:
        before = ready(workers)
        asked = 0

        def ask_until(pids: set[int]) -> None:
            nonlocal asked

            def all_have_answered() -> bool:
                nonlocal asked
                assert set(workers.ask(key, 32)) == {200}
                asked += 32
                return pids <= answered(workers)

            until(workers, all_have_answered)

        ask_until(before)
        until(workers, lambda: workers.searches(key) == asked)  # It is counted after the answer.

        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(workers, lambda: f"worker {killed} ended" in workers.said)
        after = ready(workers)
        assert len(after - before) == 1
        ask_until(after)
        # What the killed one had answered is still counted, and what it was doing is not.
        until(workers, lambda: workers.searches(key) == asked)  # It is counted after the answer.
        assert not list(workers.metrics_folder().glob(f"gauge_live*_{killed}.db"))

        assert "Traceback" not in workers.said
        folder, everything = workers.metrics_folder(), workers.tree()
        workers.process.terminate()
        assert psutil.wait_procs(everything, timeout=_GRACE_SECONDS)[1] == []
        assert workers.process.returncode == 0
        assert not folder.exists()


def test_a_worker_that_cannot_start_ends_the_service_with_one_line(index: SearchIndex, key: str):
    embedder = "rag_pipeline_tests.support.embedders:broken"
    with started(index, RAG_EMBEDDER=embedder) as workers:
        assert workers.process.wait(timeout=90) == 1
        (line,) = workers.said.splitlines()
        assert line == (f"rag-pipeline: the embedder (RAG_EMBEDDER={embedder}) does not work: cannot embed ' '")


def test_ctrl_c_ends_the_whole_group(index: SearchIndex, key: str):
    with started(index) as workers:
        ready(workers)
        everything = workers.tree()
        os.killpg(workers.process.pid, signal.SIGINT)
        assert psutil.wait_procs(everything, timeout=_GRACE_SECONDS)[1] == []
        assert "Traceback" not in workers.said
        assert "another is started" not in workers.said


def test_the_workers_end_when_the_input_of_the_service_does(index: SearchIndex, key: str):
    with started(index, "--until-input-ends") as workers:
        ready(workers)
        everything = workers.tree()
        workers.process.stdin.close()
        assert psutil.wait_procs(everything, timeout=_GRACE_SECONDS)[1] == []


def test_the_workers_end_when_their_supervisor_is_killed(index: SearchIndex, key: str):
    with started(index) as workers:
        ready(workers)
        everything, folder = workers.tree(), workers.metrics_folder()
        remove_left_behind()
        assert folder.exists()
        workers.process.kill()
        assert psutil.wait_procs(everything, timeout=_GRACE_SECONDS)[1] == []
        assert folder.exists()
        remove_left_behind()
        assert not folder.exists()


def test_only_folders_of_services_that_ended_are_removed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("rag-serve-ended", "rag-serve-begins", "rag-serve-used", "other"):
        (tmp_path / name).mkdir()
    for name in ("rag-serve-ended", "rag-serve-used", "other"):
        (tmp_path / name / "lock").touch()
    (tmp_path / "rag-serve-link").symlink_to(tmp_path / "other")
    (tmp_path / "rag-serve-file").touch()
    with (tmp_path / "rag-serve-used/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        remove_left_behind()
    left = {path.name.removeprefix("rag-serve-") for path in tmp_path.iterdir()}
    assert left == {"begins", "used", "other", "link", "file"}


def test_a_worker_that_does_not_end_is_killed_within_the_grace_time(index: SearchIndex, key: str):
    with started(index) as workers:
        stopped, _ = ready(workers)
        everything = workers.tree()
        os.kill(stopped, signal.SIGSTOP)
        workers.process.terminate()
        assert psutil.wait_procs(everything, timeout=_GRACE_SECONDS)[1] == []
        assert f"worker {stopped} did not end within" in workers.said
