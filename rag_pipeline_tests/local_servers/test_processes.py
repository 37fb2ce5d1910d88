"""Finding and stopping server processes, and their ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rag_pipeline.local_servers import processes


def _yes() -> bool:
    return True


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not one of our servers."""
    with subprocess.Popen(["sleep", "600"]) as process:
        # Popen returns once the child has called exec, which is before its command line can be read.
        assert processes.wait_until(lambda: psutil.Process(process.pid).cmdline() == ["sleep", "600"], _yes, 60)
        yield process
        process.kill()


def test_finds_a_process_by_pid_and_command_line(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{sleeper.pid}\nmore\n")
    found = processes.find(pidfile, "sleep", "600")
    assert found is not None
    assert found.pid == sleeper.pid


def test_a_recycled_pid_is_not_found(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{sleeper.pid}\n")
    assert processes.find(pidfile, "postgres", str(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "pid\n", "-1\n", "99999999999999999999\n", "4194305\n"])
def test_a_stale_or_damaged_pidfile_finds_nothing(tmp_path: Path, content: str) -> None:
    pidfile = tmp_path / "pid"
    assert processes.find(pidfile) is None
    pidfile.write_text(content)
    assert processes.find(pidfile) is None


def test_a_zombie_is_not_found(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{sleeper.pid}\n")
    os.kill(sleeper.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: processes.ended(psutil.Process(sleeper.pid)), _yes, 60)
    assert psutil.pid_exists(sleeper.pid)
    assert processes.find(pidfile) is None


def test_stop_kills_a_process_that_ignores_the_signal(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        process = psutil.Process(stubborn.pid)
        processes.stop(process, signal.SIGINT, 0.2)
        assert processes.ended(process)


def test_stop_does_not_wait_for_a_parent_that_never_reaps() -> None:
    # The shell becomes a program that never waits for its child. A run of the tests in the background ignores SIGINT,
    # which makes Dagster ignore SIGTERM, and children inherit that.
    command = ["env", "--default-signal=TERM", "sh", "-c", "sleep 600 & echo $!; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        try:
            # before that, the shell itself would take note of its child's end
            assert processes.wait_until(lambda: psutil.Process(parent.pid).name() == "sleep", _yes, 60)
            processes.stop(orphan, signal.SIGTERM, 200)
            assert psutil.pid_exists(orphan.pid)
            assert processes.ended(orphan)
        finally:
            parent.kill()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_taken_by_a_listener_that_would_share_it(address: str) -> None:
    port = processes.free_port()
    assert processes.port_is_free(port)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen()
        assert not processes.port_is_free(port)
    assert processes.port_is_free(port)


def test_a_free_port_is_not_one_that_is_taken() -> None:
    taken = range(20000, 32000, 2)
    assert processes.free_port(taken) % 2 == 1


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "2026-01-01 10:00:00.000 UTC [7] LOG:  starting\n"
            '2026-01-01 10:00:00.001 UTC [7] FATAL:  data directory "/x" has wrong ownership\n'
            "2026-01-01 10:00:00.001 UTC [7] LOG:  database system is shut down\n",
            'FATAL:  data directory "/x" has wrong ownership',
        ),
        (
            "Traceback (most recent call last):\n  File ...\nmilvus_lite.exceptions.DataDirLockedError: /x is locked\n",
            "DataDirLockedError: /x is locked",
        ),
        (
            "1:M # Failed listening on port 6379 (tcp), aborting.\n\n",
            "1:M # Failed listening on port 6379 (tcp), aborting.",
        ),
        ("\n\n", "it printed nothing"),
    ],
)
def test_the_error_line_says_why_a_server_ended(output: str, line: str) -> None:
    assert processes.error_line(output) == line


def test_the_log_is_read_from_where_the_start_began_and_no_more_than_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.log_since(log, 0) == ""
    log.write_text("old\nnew\n")
    assert processes.log_since(log, 4) == "new\n"
    log.write_text("x" * 1_000_000 + "end")
    assert processes.log_since(log, 0).endswith("xend")
    assert len(processes.log_since(log, 0)) == 65536
