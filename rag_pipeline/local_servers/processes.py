"""Server processes on this machine: finding, starting and stopping them, their ports and logs. For any server.

The command line of each of our servers names its own folder, which identifies it: after a reboot another process
may have its pid. (The start time does not identify it: it shifts when the clock is set.)
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rag_pipeline.errors import RagError

LOOPBACK = "127.0.0.1"

# Below the ports for outgoing connections (Linux from 32768, macOS from 49152), which might otherwise occupy a
# remembered port while its server is down.
_PORTS = range(20000, 32000)

# PostgreSQL's (`FATAL:  ...`, `initdb: error: ...`) and Python's (`OSError: ...`), without a time before them
_ERROR = re.compile(r"\b(FATAL|PANIC|ERROR|error|\w+Error):.*")


_INHERITED = (
    *("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
)


def server_environment() -> dict[str, str]:
    """Return what a server needs of our environment to find its programs, and none of our settings and secrets."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


@dataclass(frozen=True)
class Account:
    """The user that a server runs as, if not the current one (PostgreSQL refuses root)."""

    uid: int
    gid: int

    def arguments(self) -> dict[str, Any]:
        """Return arguments for `subprocess`: this user, without our supplementary groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def find(pidfile: Path, *marks: str) -> psutil.Process | None:
    """Return the running process whose pid `pidfile` begins with, if its command line contains all `marks`."""
    try:
        pid = int(pidfile.read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if ended(process):
            return None
        line = " ".join(process.cmdline())
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    return process if all(mark in line for mark in marks) else None


def try_lock(lock: Path) -> int | None:
    """Take a server's lock; return a descriptor to pass to `spawn` and close, or None while a process holds it.

    The system releases the lock when the last process started with it ends, so it is never stale. It is held from
    the start, before the server has written its pid.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def spawn(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    lock_fd: int,
    account: Account | None = None,
    env: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a server in its own session, so that it outlives us; append its output to `log`.

    It inherits the descriptor of its lock, and so holds the lock until it ends.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=[lock_fd],
            **(account.arguments() if account else {}),
        )
    finally:
        os.close(descriptor)


def leave_running(child: subprocess.Popen[bytes]) -> None:
    """Forget a child that is meant to outlive its handle, which would otherwise warn that it is still running."""
    child.returncode = 0


def ended(process: psutil.Process) -> bool:
    """Whether it has ended, even if its parent never waits for it (as a container's first process might not)."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def stop(process: psutil.Process, signal: int, timeout: float) -> None:
    """Send `signal` and wait; kill after `timeout` seconds. Raises `RagError` if it belongs to another user."""
    try:
        process.send_signal(signal)
        if not wait_until(lambda: ended(process), lambda: True, timeout):
            process.kill()
            wait_until(lambda: ended(process), lambda: True, 10)
        process.wait(0)  # reaps it, if it is our child
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return
    except psutil.AccessDenied:
        raise RagError(f"process {process.pid} belongs to another user: stop it as that user") from None


def wait_until(ready: Callable[[], bool], alive: Callable[[], bool], timeout: float) -> bool:
    """Poll until `ready`; return False once `alive` is false or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not alive() or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could have `port` on the loopback address to itself.

    Binding alone does not prove it: SO_REUSEPORT allows a second listener, and macOS allows one on the loopback
    address beside one on all addresses.
    """
    with socket.socket() as connection:
        connection.settimeout(1)
        if connection.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: Sequence[int] = ()) -> int:
    """Return a free port on the loopback address that is not in `taken`."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if port not in taken and port_is_free(port):
            return port
    raise RagError(f"no free port between {_PORTS.start} and {_PORTS.stop - 1}: stop what is listening there")


def error_line(text: str) -> str:
    """Return the line of a server's output that explains its end: the first error, else the last line."""
    error = _ERROR.search(text)
    if error:
        return error.group().strip()
    lines = text.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def how_it_ended(status: int) -> str:
    """Return `subprocess`'s return code in words."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def log_since(log: Path, start: int) -> str:
    """Return what was appended to `log` after byte `start`, at most the last 64 KiB."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - 65536))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
