"""The `rag-pipeline dev` of a home, as other processes find it: a file that is locked while it runs, with its addresses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE = "dev.lock"
_COMMAND = ("dagster", "dev")


@dataclass(frozen=True)
class RunningDev:
    """A `dev` and where it shows what."""

    pid: int
    """The process that ends all of it: `dev` itself, or Dagster if `dev` was killed and has left it."""
    ui_url: str
    search_url: str


def publish(lock: int, dagster: int, ui_url: str, search_url: str) -> None:
    """Tell other processes of the home, by the descriptor of the lock, that this one runs Dagster in another."""
    text = f"{dagster} {os.getpid()} {ui_url} {search_url}".encode()
    os.pwrite(lock, text, 0)
    os.ftruncate(lock, len(text))


def running_dev(home: Path) -> RunningDev | None:
    """Return the `dev` that runs in a home; None if there is none, or it is starting, or starts Dagster again.

    It looks at the process, not at the lock: whoever tries that keeps a `dev` that starts at this moment from it.
    """
    try:
        pid, dev, ui_url, search_url = (home / FILE).read_text("utf-8").split()
    except (OSError, ValueError):
        return None
    import psutil  # Takes a while, and every command asks.

    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE or not set(_COMMAND) <= set(process.cmdline()):
            return None
        return RunningDev(int(dev) if process.ppid() == int(dev) else int(pid), ui_url, search_url)
    except (ValueError, OverflowError, psutil.Error):
        return None
