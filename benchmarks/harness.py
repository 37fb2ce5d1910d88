"""Embedded servers, sources and settings for one benchmark, removed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rag_pipeline_tests.support.servers import temporary_folder, temporary_servers
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace, clean_environment

EMBEDDER = "benchmarks.free_embedder:make"


@contextmanager
def benchmark_workspace(embedder: str = EMBEDDER) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """A workspace on its own servers, by default with the free embedder, and the environment of its processes."""
    with temporary_servers("benchmark-servers") as servers, temporary_folder("benchmark") as folder:
        workspace = Workspace(folder, Stores(servers.up(), ""), embedder)
        yield workspace, clean_environment() | workspace.variables
