"""Files and folders that other users of this machine cannot read: they hold passwords, documents and logs.

Only what is ours is closed: nothing here changes the permissions of a folder that belongs to another user or holds
anything else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

_IN_HOME = {"stack.json", "logs", "postgres", "milvus", "valkey", "dagster", "models"}


def make_home(home: Path) -> None:
    """Create `RAG_HOME`, or close an existing one if it holds nothing but what we put there. Raises `OSError`."""
    # As root, PostgreSQL runs as another user, who has to pass through to its data but can list nothing.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        home.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if all(path.name in _IN_HOME or path.suffix in (".lock", ".new") for path in home.iterdir()):
            _close(home, mode)


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner can enter, or close an existing one. Raises `OSError`."""
    path.mkdir(mode=0o700, exist_ok=True)
    _close(path, 0o700)


def write_private(path: Path, content: str | bytes) -> None:
    """Replace the content of `path` atomically; only its owner can read it. Raises `OSError`."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def open_private(path: Path) -> IO[bytes]:
    """Open a file to append to; if it is new, only its owner can read it. Raises `OSError`."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)


def _close(folder: Path, mode: int) -> None:
    """Take away the permissions that are not in `mode`."""
    status = folder.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o777 & ~mode:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~0o777 | status.st_mode & mode)
