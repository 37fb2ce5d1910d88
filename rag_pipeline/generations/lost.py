"""What a generation that is not live has lost in Milvus: nobody checks it, and somebody may want to go back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import document_chunks, schema

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline


def lost_months(other: Pipeline) -> list[Month]:
    """Return the months of which a collection holds fewer rows than PostgreSQL says, by counting alone.

    `other` is the generation's pipeline, as `Pipeline.beside` returns it.
    """
    return [month for month in schema.months_with_documents(other.stores.database) if _has_lost(other, month)]


def _has_lost(other: Pipeline, month: Month) -> bool:
    with other.stores.database.connection() as connection:
        expected = document_chunks.expected_vectors(connection, month)
    return any(other.collections.stored(kind, month) < expected[kind] for kind in other.vectors)
