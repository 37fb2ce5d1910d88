"""A Milvus client for tests, apart from the pipeline's, and collections that last as long as a `with` block."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from rag_pipeline.stores.milvus.client import Milvus

if TYPE_CHECKING:
    from pymilvus import MilvusClient


@contextmanager
def milvus_client(uri: str) -> Iterator[MilvusClient]:
    """A client. Not a plain MilvusClient: its pings make Milvus Lite close the connection and the next call fails."""
    with closing(Milvus(uri)) as milvus, milvus.client() as client:
        yield client


@contextmanager
def temporary_prefix(uri: str, label: str = "t") -> Iterator[str]:
    """A prefix for collections and aliases; whatever carries it is dropped at the end."""
    prefix = f"{label}{secrets.token_hex(4)}_"
    try:
        yield prefix
    finally:
        drop_collections(uri, prefix)


def drop_collections(uri: str, prefix: str) -> None:
    """Drop all collections whose name has this prefix, with their aliases."""
    with milvus_client(uri) as client:
        for name in client.list_collections():
            if name.startswith(prefix):
                for alias in client.list_aliases(collection_name=name)["aliases"]:
                    client.drop_alias(alias)
                client.drop_collection(name)


@contextmanager
def quick_index_creation() -> Iterator[None]:
    """Have pymilvus look after 10 ms, rather than 0.5 s, whether an index is ready; with Lite it always is."""
    from pymilvus.client import grpc_handler

    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(min(seconds, 0.01)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpc_handler, "time", clock)
        yield
