"""What a person wants to see of a month: the newest documents, the sizes of its chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.stores.postgres import document_chunks, documents

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline


def newest_documents(pipeline: Pipeline, month: Month, limit: int = 10) -> list[tuple[Any, ...]]:
    """(title, language, created_at, chunks) of a month's newest documents."""
    with pipeline.stores.database.connection() as connection:
        return documents.newest(connection, month, limit)


def chunk_profile(pipeline: Pipeline, month: Month) -> list[tuple[str, int]]:
    """(range of tokens, chunks) of a month, in steps of 100 tokens."""
    with pipeline.stores.database.connection() as connection:
        return document_chunks.size_distribution(connection, month)
