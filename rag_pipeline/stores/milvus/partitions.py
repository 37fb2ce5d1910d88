"""Monthly partitions of the collections, of every generation that exists: found, made and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError
from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.milvus.client import Milvus

MAX_PARTITIONS = 1024
"""Of a real server, its default partition included. Lite does not enforce it."""


def existing_collections(milvus: Milvus, prefix: str) -> list[tuple[VectorKind, str]]:
    """(kind, physical collection) of every generation that exists with this prefix, of whatever embedder."""
    with milvus.client() as client:
        existing = client.list_collections(timeout=TIMEOUT_SECONDS)
    return [
        (kind, name)
        for name in sorted(existing)
        for kind in VECTOR_KINDS
        if name.startswith(f"{prefix}{kind}_") and "_" not in name.removeprefix(f"{prefix}{kind}_")
    ]


def create_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Make a month's partition where it is missing; whether it was."""
    from pymilvus.exceptions import MilvusException

    name = month.milvus_partition
    with milvus.client() as client:
        existing = client.list_partitions(collection, timeout=TIMEOUT_SECONDS)
        if name in existing:
            return False
        if len(existing) >= MAX_PARTITIONS:
            raise RagError(
                f"{collection}: {MAX_PARTITIONS} partitions are the most a Milvus collection can have; "
                f"raise RAG_FIRST_MONTH or set RAG_RETENTION_MONTHS so that {month} and later months fit"
            )
        try:
            client.create_partition(collection, name, timeout=TIMEOUT_SECONDS)
        except MilvusException:
            # Another process made it meanwhile, which Lite takes for an error.
            if not client.has_partition(collection, name, timeout=TIMEOUT_SECONDS):
                raise
            return False
    return True


def drop_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Drop a month's partition with its rows where it is there; whether it was."""
    lite = milvus.is_lite
    name = month.milvus_partition
    with milvus.client() as client:
        if not client.has_partition(collection, name, timeout=TIMEOUT_SECONDS):
            return False
        if not lite:
            # A real server refuses to drop a partition that is loaded; Lite has no such call and needs none.
            client.release_partitions(collection, [name], timeout=TIMEOUT_SECONDS)
        client.drop_partition(collection, name, timeout=TIMEOUT_SECONDS)
    return True
