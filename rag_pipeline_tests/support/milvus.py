"""A Milvus client for tests, apart from the pipeline's, and collections that last as long as a `with` block."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

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
