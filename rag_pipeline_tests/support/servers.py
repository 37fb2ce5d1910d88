"""Embedded servers for a test run, and their removal."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_pipeline.local_servers import LocalServers
from rag_pipeline.local_servers.postgres_folders import outside_folder
from rag_pipeline.settings import Settings, load_settings


def embedded(home: Path, **urls: str) -> Settings:
    """Return settings for embedded servers under `home`, except those that `urls` names; ignores RAG_* URLs."""
    return load_settings(**{"home": home, "postgres_url": None, "milvus_uri": None, "redis_url": None} | urls)


def remove_home(home: Path) -> None:
    """Stop the servers under `home` and remove it, including the PostgreSQL data kept outside of it."""
    try:
        LocalServers(embedded(home)).down()
    finally:
        shutil.rmtree(outside_folder(home), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def temporary_folder(label: str) -> Iterator[Path]:
    """A folder that every user can enter: as root, PostgreSQL runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix=f"rag-{label}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_servers(label: str) -> Iterator[LocalServers]:
    """Running PostgreSQL, Milvus and Redis in a temporary folder, stopped and removed at the end."""
    with temporary_folder(label) as folder:
        servers = LocalServers(embedded(folder / "home"))
        try:
            servers.up()
            yield servers
        finally:
            remove_home(folder / "home")
