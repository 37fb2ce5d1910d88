"""The live chunks that contain words of a query and may be shown, best first, enough to fill its limit if there are enough.

The index of words knows of which source each live chunk is, but a chunk's item decides who may see it: so chunks are
ranked, and those that rank best are looked up. Both read one snapshot, so that a document whose next version goes live
between the two is found all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.search.matching_documents import has_filters_of_documents, matching_documents
from rag_pipeline.search.request import windows
from rag_pipeline.stores.postgres import search_queries as queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from rag_pipeline.months import Month
    from rag_pipeline.search.request import Request
    from rag_pipeline.stores.postgres.search_queries import FoundChunk, RankedChunk

Found = tuple["RankedChunk", "FoundChunk"]


def live_by_words(request: Request, words: Mapping[str, float]) -> list[tuple[FoundChunk, float]]:
    """Return the best chunks for words with these weights, each with its score: at most the request's limit."""
    if not words:
        return []
    with request.watch.stage("narrow"):
        months = request.months_with(list(words))
        documents = matching_documents(request, months) if has_filters_of_documents(request.filters) else None
    if documents == []:
        return []
    found: list[Found] = []
    with request.watch.stage("fulltext"):
        for some in windows(months):
            found += _best_of_months(request, words, some, documents)
    found.sort(key=lambda one: one[0].rank)
    return [(chunk, ranked.score) for ranked, chunk in found[: request.limit]]


def _best_of_months(
    request: Request, words: Mapping[str, float], months: Sequence[Month], documents: Sequence[UUID] | None
) -> list[Found]:
    filters, sources = request.filters, request.sources
    wanted = request.limit
    with request.pipeline.stores.database.connection() as connection:
        queries.read_one_snapshot(connection)
        while True:
            ranked = queries.best_by_words(connection, words, filters, months, wanted, sources, documents)
            live = queries.hydrate(connection, {chunk.id: chunk.document_id for chunk in ranked}, filters, sources)
            if len(live) >= request.limit or len(ranked) < wanted:
                return [(chunk, live[chunk.id]) for chunk in ranked if chunk.id in live]
            wanted += len(ranked) - len(live)  # Their items are of other sources than they say.
