"""What PostgreSQL and Milvus hold of an index, and the assertion that both agree and nothing is unfinished."""

from __future__ import annotations

from collections import Counter

import psycopg

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline_tests.support.milvus import milvus_client


def expected_ids(connection: psycopg.Connection, kind: str) -> set[str]:
    """Return the keys that a collection should hold according to PostgreSQL."""
    if kind == "multi":
        rows = connection.execute(
            "SELECT id::text, multi_vector_count FROM document_chunks WHERE live AND NOT superseded"
        ).fetchall()
        return {f"{chunk}_multi_{n}" for chunk, count in rows for n in range(count)}
    rows = connection.execute("SELECT id::text FROM document_chunks WHERE live").fetchall()
    return {f"{chunk}_{kind}" for (chunk,) in rows}


def stored_ids(milvus_uri: str, collection: str, month: Month | None = None) -> Counter[str]:
    """Return how often a collection holds each key; nothing if there is no such collection."""
    with milvus_client(milvus_uri) as client:
        if not client.has_collection(collection, timeout=TIMEOUT_SECONDS):
            return Counter()
        found = client.query(
            collection,
            filter="",
            limit=16_000,
            output_fields=["id"],
            partition_names=[month.milvus_partition] if month else None,
            timeout=TIMEOUT_SECONDS,
        )
    return Counter(row["id"] for row in found)


def assert_vectors_match(endpoints: Endpoints, collections: dict[str, str]) -> None:
    """Every vector exists once, none is left over, no chunk is unfinished and no deletion is pending.

    `collections` maps each kind that is built to its collection's name or alias.
    """
    with psycopg.connect(endpoints.postgres_url) as connection:
        unfinished = (
            "SELECT id FROM document_chunks WHERE NOT live OR superseded OR embedding_status <> 'completed'"
        )
        assert connection.execute(unfinished).fetchall() == []
        assert connection.execute("SELECT id FROM vector_deletions").fetchall() == []
        expected = {kind: expected_ids(connection, kind) for kind in collections}
    for kind, collection in collections.items():
        stored = stored_ids(endpoints.milvus_uri, collection)
        assert stored == Counter(expected[kind]), kind
