"""The live chunks that contain words of a query and may be shown, best first, enough to fill its limit if there are enough.

The index of words knows of which source each live chunk is. PostgreSQL still decides, where hits are looked up: a
document can be deleted between the two, and its item can say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.search.matching_documents import has_filters_of_documents, matching_documents
from rag_pipeline.search.request import windows
from rag_pipeline.stores.postgres import search_queries as queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rag_pipeline.search.request import Request
    from rag_pipeline.stores.postgres.search_queries import FoundChunk, RankedChunk


def live_by_words(request: Request, words: Mapping[str, float]) -> list[tuple[FoundChunk, float]]:
    """Return the best chunks for words with these weights, each with its score: at most the request's limit."""
    database, watch = request.pipeline.stores.database, request.watch
    if not words:
        return []
    with watch.stage("narrow"):
        months = request.months_with(list(words))
        documents = matching_documents(request, months) if has_filters_of_documents(request.filters) else None
    if documents == []:
        return []
    wanted = request.limit
    while True:
        ranked: list[RankedChunk] = []
        with watch.stage("fulltext"):
            for some in windows(months):
                with database.connection() as connection:
                    ranked += queries.best_by_words(
                        connection, words, request.filters, some, wanted, request.sources, documents
                    )
            ranked = sorted(ranked, key=lambda chunk: chunk.rank)[:wanted]
        candidates = {chunk.id: chunk.document_id for chunk in ranked}
        with watch.stage("hydrate"), database.connection() as connection:
            live = queries.hydrate(connection, candidates, request.filters, request.sources)
        if len(live) >= request.limit or len(ranked) < wanted:
            shown = [(live[chunk.id], chunk.score) for chunk in ranked if chunk.id in live]
            return shown[: request.limit]
        wanted += len(ranked) - len(live)
