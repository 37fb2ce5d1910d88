"""Deletions: the outbox is drained into Milvus. A row leaves it only after Milvus has confirmed.

At least once, and idempotent: the keys of a deleted chunk are never used again, so deleting them twice is harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.connection import TIMEOUT_SECONDS
from rag_pipeline.stores.postgres import deletions

if TYPE_CHECKING:
    from rag_pipeline.indexing.pipeline import Pipeline

_BATCH = 500


def drain_deletions(pipeline: Pipeline) -> int:
    """Delete from Milvus what was deleted in PostgreSQL; how many chunks."""
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    drained = 0
    with pipeline.tally.stage("deletions"):
        names: list[tuple[str, str]] | None = None
        while True:
            # One transaction a batch: the rows stay locked, so that two consumers do not do the same work.
            with database.connection() as connection:
                batch = deletions.next_batch(connection, _BATCH)
                if not batch:
                    break
                if names is None:
                    names = _collections(pipeline)
                for kind, name in names:
                    ids = [
                        key
                        for deletion in batch
                        for key in rows.vector_ids(kind, deletion.chunk_id, deletion.multi_vector_count)  # type: ignore[arg-type]
                    ]
                    rows.delete(milvus, name, ids)
                deletions.confirm(connection, batch)
            drained += len(batch)
            pipeline.progress("deletions", drained)
    pipeline.tally.vectors_deleted += drained
    return drained


def _collections(pipeline: Pipeline) -> list[tuple[str, str]]:
    """(kind, physical collection) of every generation that exists: a deletion has to reach all of them."""
    prefix = pipeline.settings.milvus_prefix
    with pipeline.stores.milvus.client() as client:
        existing = client.list_collections(timeout=TIMEOUT_SECONDS)
    return [
        (kind, name)
        for name in existing
        for kind in VECTOR_KINDS
        if name.startswith(f"{prefix}{kind}_") and "_" not in name.removeprefix(f"{prefix}{kind}_")
    ]
