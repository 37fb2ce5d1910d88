"""The documents that match filters which only PostgreSQL knows, so that chunks are looked for among them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.search.request import windows
from rag_pipeline.stores.postgres import search_queries as queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.months import Month
    from rag_pipeline.search.request import Request
    from rag_pipeline.stores.filters import Filters

NAMED_DOCUMENTS = 2000
"""At most so many documents are named at once: to Milvus in an expression of some 80 kB."""


def has_filters_of_documents(filters: Filters) -> bool:
    """Whether the filters ask for what chunks do not have, here or in Milvus: a category, an author, or tags."""
    return filters.category is not None or filters.author is not None or bool(filters.tags)


def matching_documents(
    request: Request, months: Sequence[Month], most: int = NAMED_DOCUMENTS
) -> list[UUID] | None:
    """Return the documents of these months that match the filters and may be shown; None if they are more than `most`."""
    found: list[UUID] = []
    for some in windows(months):
        with request.pipeline.stores.database.connection() as connection:
            found += queries.matching_documents(
                connection, request.filters, request.sources, some, most + 1 - len(found)
            )
        if len(found) > most:
            return None
    return found
