"""A client of the test's own, beside the pipeline's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rag_pipeline.stores.milvus.client import Milvus

if TYPE_CHECKING:
    from pymilvus import MilvusClient


@contextmanager
def milvus_client(uri: str) -> Iterator[MilvusClient]:
    """Not pymilvus' own: its pings make Milvus Lite close the connection, and the call that comes then fails."""
    with closing(Milvus(uri)) as milvus, milvus.client() as client:
        yield client


def drop_collections(uri: str, prefix: str) -> None:
    """Drop whatever has this prefix, and its aliases."""
    with milvus_client(uri) as client:
        for name in client.list_collections():
            if name.startswith(prefix):
                for alias in client.list_aliases(collection_name=name)["aliases"]:
                    client.drop_alias(alias)
                client.drop_collection(name)
