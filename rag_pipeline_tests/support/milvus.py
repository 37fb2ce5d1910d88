"""A Milvus client for tests, apart from the pipeline's, and collections that last as long as a `with` block."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

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


@contextmanager
def refusing(
    code: int, message: str, refused: Callable[[str], bool] = lambda _: True, *, method: str = "upsert"
) -> Iterator[list[str]]:
    """Have the client refuse writes as a server would, with a code of its own, if `refused` is true of a row's key.

    Yields the collections of the calls that were refused.
    """
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    original = getattr(MilvusClient, method)
    calls: list[str] = []

    def call(client: MilvusClient, collection: str, *arguments: Any, **options: Any) -> Any:
        rows = options.get("ids") or options.get("data") or arguments[0]
        if any(refused(row if isinstance(row, str) else row["id"]) for row in rows):
            calls.append(collection)
            raise MilvusException(code=code, message=message)
        return original(client, collection, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MilvusClient, method, call)
        yield calls
