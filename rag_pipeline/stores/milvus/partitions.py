"""Lists the existing collections and their partitions, and creates and drops those of the months."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from rag_pipeline.stores.milvus.client import Milvus

MAX_PARTITIONS = 1024
"""The limit of a real server, its default partition included. Lite does not enforce it."""
_OVER_ITS_LIMIT = "exceeds max configuration"
"""What a server says then, without a code of its own."""


def existing_collections(milvus: Milvus, prefix: str) -> list[tuple[VectorKind, str]]:
    """Return (kind, physical collection) of every generation with this prefix, whichever its embedder."""
    with milvus.client() as client:
        existing = client.list_collections(timeout=TIMEOUT_SECONDS)
    return [
        (kind, name)
        for name in sorted(existing)
        for kind in VECTOR_KINDS
        if name.startswith(f"{prefix}{kind}_") and "_" not in name.removeprefix(f"{prefix}{kind}_")
    ]


def prefix_in_use(milvus: Milvus, suffix: str, own: str) -> str | None:
    """Return the prefix of the collections whose names end so: `own` if there are such; None if there are none at all."""
    with milvus.client() as client:
        existing = client.list_collections(timeout=TIMEOUT_SECONDS)
    found = {
        name.removesuffix(f"{kind}_{suffix}")
        for name in existing
        for kind in VECTOR_KINDS
        if name.endswith(f"{kind}_{suffix}")
    }
    return own if own in found else min(found, default=None)


def partitions_of_no_month(milvus: Milvus, collection: str) -> list[str]:
    """Return a collection's other partitions: Milvus' default one, and those that somebody else created.

    Only others write there, but searches that name no partition find it. The collection must exist.
    """
    with milvus.client() as client:
        names = client.list_partitions(collection, timeout=TIMEOUT_SECONDS)
    return sorted(name for name in names if Month.from_milvus_partition(name) is None)


def create_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Create a month's partition if it is missing. Return whether it was."""
    from pymilvus.exceptions import MilvusException

    name = month.milvus_partition
    with milvus.client() as client:
        existing = client.list_partitions(collection, timeout=TIMEOUT_SECONDS)
        if name in existing:
            return False
        if len(existing) >= MAX_PARTITIONS:
            raise _too_many(collection, MAX_PARTITIONS, month)
        try:
            client.create_partition(collection, name, timeout=TIMEOUT_SECONDS)
        except MilvusException as error:
            if _OVER_ITS_LIMIT in error.message:  # A server can be configured with a lower one.
                raise _too_many(collection, len(existing), month) from None
            # Another process has created it meanwhile, which is an error on Lite.
            if not client.has_partition(collection, name, timeout=TIMEOUT_SECONDS):
                raise
            return False
    return True


def _too_many(collection: str, most: int, month: Month) -> RagError:
    return RagError(
        f"{collection}: this Milvus allows a collection {most} partitions at most (rootCoord.maxPartitionNum); "
        f"raise RAG_FIRST_MONTH or set RAG_RETENTION_MONTHS so that {month} and later months fit"
    )


def partition_exists(client: MilvusClient, collection: str, name: str) -> bool:
    """Whether the collection exists and has this partition."""
    from pymilvus.exceptions import MilvusException

    try:
        return bool(client.has_partition(collection, name, timeout=TIMEOUT_SECONDS))
    except MilvusException:
        # Servers differ in how they say that there is no such collection.
        if not client.has_collection(collection, timeout=TIMEOUT_SECONDS):
            return False
        raise


def drop_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Drop a month's partition with its rows if it exists. Return whether it did."""
    lite = milvus.is_lite
    name = month.milvus_partition
    with milvus.client() as client:
        if not client.has_partition(collection, name, timeout=TIMEOUT_SECONDS):
            return False
        if not lite:
            # A real server refuses to drop a loaded partition; Lite neither has nor needs this call.
            client.release_partitions(collection, [name], timeout=TIMEOUT_SECONDS)
        client.drop_partition(collection, name, timeout=TIMEOUT_SECONDS)
    return True
