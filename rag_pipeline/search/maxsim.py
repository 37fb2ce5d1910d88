"""MaxSim: the multi-vectors of candidates, read by key from `multi_collection`, compared with the query's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from rag_pipeline.search.candidates import on_loaded
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import vector_field
from rag_pipeline.stores.vector_ids import chunk_of, row_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pymilvus import MilvusClient

    from rag_pipeline.embedding.base import FloatArray
    from rag_pipeline.settings import SearchConsistency
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Generation
    from rag_pipeline.stores.postgres.search_queries import FoundChunk

_KEYS_PER_REQUEST = 1000
"""Rows in memory at a time: 4 MB at 1024 dimensions, and 30 MB while they are Python floats."""


def multi_scores(
    milvus: Milvus,
    generation: Generation,
    query: FloatArray,
    chunks: Sequence[FoundChunk],
    consistency: SearchConsistency,
) -> dict[UUID, float]:
    """Return the MaxSim of the query's (k, d) rows with each chunk's, by chunk; one without rows is left out."""
    keys = [key for chunk in chunks for key in row_ids("multi", chunk.id, chunk.multi_vector_count)]
    field = vector_field("multi")
    best: dict[UUID, FloatArray] = {}
    for start in range(0, len(keys), _KEYS_PER_REQUEST):
        part = keys[start : start + _KEYS_PER_REQUEST]

        def get(client: MilvusClient, part: list[str] = part) -> list[dict[str, Any]]:
            return client.get(
                generation.search_alias,
                ids=part,
                output_fields=[field],
                consistency_level=consistency.capitalize(),
                timeout=TIMEOUT_SECONDS,
            )

        rows = on_loaded(milvus, generation.search_alias, get)
        if rows:
            owners = [chunk_of(row["id"]) for row in rows]
            vectors = np.asarray([row[field] for row in rows], dtype=np.float32)
            keep_best(best, owners, vectors @ query.T)
    return {chunk: float(similarities.mean()) for chunk, similarities in best.items()}


def keep_best(best: dict[UUID, FloatArray], owners: Iterable[UUID], similarities: FloatArray) -> None:
    """Raise each chunk's (k,) best similarities to those of the (n, k) rows passed in.

    The mean of the best is MaxSim (Khattab and Zaharia, "ColBERT", 2020, there as a sum): for each row of the
    query the largest inner product with any row of the chunk, averaged over the query's rows.
    """
    for owner, row in zip(owners, similarities, strict=True):
        best[owner] = np.maximum(best[owner], row) if owner in best else row
