"""Writes, fetches and deletes rows of the collections by key, in slices that a real server accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.expressions import KEYS_PER_FILTER, has_key, in_parts
from rag_pipeline.stores.vector_ids import chunk_of, row_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.postgres.document_chunks import ChunkToEmbed

Row = dict[str, Any]

_REQUEST_BYTES = 16 * 1024 * 1024
"""A real server refuses requests of 64 MB; smaller ones also save memory."""

NO_TERMS = {2**32 - 2: 1e-9}
"""The vector of a text without terms: Milvus refuses an empty sparse vector, and no query has this term."""


def make_rows(
    kind: VectorKind, chunk: ChunkToEmbed, vectors: ChunkVectors, *, has_source: bool = False
) -> list[Row]:
    """Return the rows of one chunk in a collection, whose rows have a field for the source or not."""
    common: Row = {
        "document_id": str(chunk.document_id),
        "source_type": chunk.source_type,
        "chunk_position": chunk.position,
        "created_timestamp": int(chunk.created_at.timestamp()),
    }
    if has_source:
        common["source"] = str(chunk.source)
    if kind == "dense":
        assert vectors.dense is not None
        (key,) = row_ids(kind, chunk.id, 0)
        return [{"id": key, "vector": vectors.dense, "language": chunk.language, **common}]
    if kind == "sparse":
        assert vectors.sparse is not None
        (key,) = row_ids(kind, chunk.id, 0)
        return [
            {
                "id": key,
                "vector": vectors.sparse or NO_TERMS,
                "language": chunk.language,
                "vocabulary_size": len(vectors.sparse),
                **common,
            }
        ]
    assert vectors.multi is not None
    positions = vectors.multi_positions or list(range(len(vectors.multi)))
    return [
        {
            "id": key,
            "vectors": row,
            "token_count": vectors.token_count,
            "token_positions": [positions[n]],
            **common,
        }
        for n, (key, row) in enumerate(
            zip(row_ids(kind, chunk.id, len(vectors.multi)), vectors.multi, strict=True)
        )
    ]


def upsert(milvus: Milvus, collection: str, month: Month, rows: Sequence[Row]) -> None:
    """Write rows to a month's partition. A key never changes its partition, because a document keeps its month."""
    write(milvus, collection, month.milvus_partition, rows)


def write(milvus: Milvus, collection: str, partition: str, rows: Sequence[Row]) -> None:
    """Write rows to a partition, as few megabytes at a time as a server takes."""
    for part in _slices(rows):
        with milvus.client() as client:
            client.upsert(collection, list(part), partition_name=partition, timeout=TIMEOUT_SECONDS)


def delete(milvus: Milvus, collection: str, ids: Sequence[str]) -> None:
    """Delete rows by key; missing keys are ignored.

    From every partition: Lite does so even if one is named.
    """
    for part in in_parts(ids):
        with milvus.client() as client:
            client.delete(collection, filter=has_key(part), timeout=TIMEOUT_SECONDS)


def fetch(milvus: Milvus, collection: str, ids: Sequence[str], fields: Sequence[str]) -> list[Row]:
    """Return the rows that exist with these keys, in no particular order."""
    found: list[Row] = []
    for part in in_parts(ids):
        with milvus.client() as client:
            found += [
                dict(row)
                for row in client.query(
                    collection,
                    filter=has_key(part),
                    output_fields=list(fields),
                    consistency_level="Strong",
                    timeout=TIMEOUT_SECONDS,
                )
            ]
    return found


def with_new_metadata(
    milvus: Milvus, kind: VectorKind, collection: str, chunks: Mapping[UUID, tuple[ChunkToEmbed, int]]
) -> Iterator[list[Row]]:
    """Yield the stored rows of chunks, some chunks at a time, with their new position and language, to be written.

    The vectors are those that are stored; nothing is embedded again. `chunks` maps a chunk's id to its new state and
    its number of multi-vectors. Rows that are missing stay missing.
    """
    items = list(chunks.items())
    step = max(1, KEYS_PER_FILTER // max([1, *(count for _, count in chunks.values())]))
    for start in range(0, len(items), step):
        part = dict(items[start : start + step])
        ids = [key for chunk, (_, count) in part.items() for key in row_ids(kind, chunk, count)]
        rows = fetch(milvus, collection, ids, ["*"])
        for row in rows:
            chunk, _ = part[chunk_of(row["id"])]
            row["chunk_position"] = chunk.position
            if kind != "multi":
                row["language"] = chunk.language
        yield rows


def _slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start, size = 0, 0
    for n, row in enumerate(rows):
        vector = row.get("vector", row.get("vectors"))
        # 12 bytes per sparse term, 4 per dense component, and some for the other fields.
        weight = 512 + (12 if isinstance(vector, dict) else 4) * len(vector if vector is not None else ())
        if size + weight > _REQUEST_BYTES and n > start:
            yield rows[start:n]
            start, size = n, 0
        size += weight
    if start < len(rows):
        yield rows[start:]
