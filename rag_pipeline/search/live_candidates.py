"""The candidates of a search that may be shown, enough to fill its limit if there are enough.

PostgreSQL decides which may be: live, within the filters, of a source that the asker may see. Milvus' rows have no
category, tags and author, and in generations of older programs no source. So where few documents match, Milvus is told
which; where many do, more and more of the nearest chunks are read; and where that does not fill the limit, because those
many are a small share of a very large index, Milvus is told all of them, some at a time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.search.candidates import Candidates, find
from rag_pipeline.search.matching_documents import NAMED_DOCUMENTS, has_filters_of_documents, matching_documents
from rag_pipeline.stores.postgres import search_queries as queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor
    from uuid import UUID

    from rag_pipeline.embedding.base import ChunkVectors
    from rag_pipeline.months import Month
    from rag_pipeline.search.request import Request
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.search_queries import FoundChunk

MOST_DOCUMENTS = 100_000
"""If more may be shown, they are not named: then they are some of the nearest chunks of almost any index."""
_PAGES = (100, 400, 1500)
"""How many candidates a leg reads, one page after the other, until enough of them are live and may be shown."""
_MOST_CANDIDATES = 2000
"""Of a leg, the best of those that were found among named documents."""

Legs = dict["VectorKind", Candidates]
Live = dict["UUID", "FoundChunk"]


def live_candidates(
    request: Request, legs: Sequence[VectorKind], vectors: ChunkVectors
) -> tuple[Mapping[VectorKind, Candidates], Mapping[UUID, FoundChunk]]:
    """Return the candidates of each leg, and the rows of those that may be shown, by chunk."""
    with request.watch.stage("narrow"):
        months = request.months_with() if request.filters.has_dates else None
        documents = [] if months == [] else _documents(request, months, NAMED_DOCUMENTS)
    if documents == []:
        return {kind: Candidates() for kind in legs}, {}
    with ThreadPoolExecutor(len(legs), thread_name_prefix="search") as pool:
        search = _Search(request, vectors, months, pool)
        found, live = search.nearest(legs, documents)
        is_short = len(live) < request.limit and not all(leg.exhausted for leg in found.values())
        if documents is None and is_short:
            with request.watch.stage("narrow"):
                many = _documents(request, months, MOST_DOCUMENTS)
            if many is not None:
                found, live = search.among(legs, many)
    return found, live


@dataclass(frozen=True)
class _Search:
    request: Request
    vectors: ChunkVectors
    months: Sequence[Month] | None
    """Where to look, if the filters have dates."""
    pool: Executor

    def nearest(self, legs: Sequence[VectorKind], documents: Sequence[UUID] | None) -> tuple[Legs, Live]:
        """Look at page after page of the nearest chunks, of these documents (None: all), until the limit is filled."""
        found: Legs = {kind: Candidates() for kind in legs}
        live: Live = {}
        asked = list(legs)
        for size in _PAGES:
            with self.request.watch.stage("candidates"):
                pages = list(
                    self.pool.map(
                        lambda kind, size=size: self._find(kind, documents, size, found[kind].returned), asked
                    )
                )
            new: dict[UUID, UUID] = {}
            for kind, page in zip(asked, pages, strict=True):
                new |= page.documents
                found[kind].extend(page)
            live |= self._hydrated(new)
            asked = [kind for kind in legs if not found[kind].exhausted]
            if len(live) >= self.request.limit or not asked:
                break
        return found, live

    def among(self, legs: Sequence[VectorKind], documents: Sequence[UUID]) -> tuple[Legs, Live]:
        """Look at the nearest chunks of these documents, some of them at a time."""
        batches = [documents[at : at + NAMED_DOCUMENTS] for at in range(0, len(documents), NAMED_DOCUMENTS)]
        found: Legs = {}
        with self.request.watch.stage("candidates"):
            for kind in legs:
                parts = list(self.pool.map(lambda batch, kind=kind: self._find(kind, batch, _PAGES[0]), batches))
                found[kind] = Candidates.best(parts, _MOST_CANDIDATES)
        return found, self._hydrated({chunk: of for leg in found.values() for chunk, of in leg.documents.items()})

    def _find(self, kind: VectorKind, documents: Sequence[UUID] | None, limit: int, offset: int = 0) -> Candidates:
        pipeline, filters = self.request.pipeline, self.request.filters
        collection = self.request.generation.collections.generations[kind]
        vector = getattr(self.vectors, kind)
        sources = self.request.sources
        consistency = pipeline.settings.search_consistency
        milvus = pipeline.stores.milvus
        return find(
            milvus, collection, vector, filters, limit, offset, documents, sources, self.months, consistency
        )

    def _hydrated(self, chunks: Mapping[UUID, UUID]) -> Live:
        request = self.request
        with request.watch.stage("hydrate"), request.pipeline.stores.database.connection() as connection:
            return queries.hydrate(connection, chunks, request.filters, request.sources)


def _documents(request: Request, months: Sequence[Month] | None, most: int) -> list[UUID] | None:
    """Return the documents of these months (None: all) that may be shown, if Milvus' rows cannot tell.

    None: they can, or there are more than `most`.
    """
    filters, sources = request.filters, request.sources
    if not has_filters_of_documents(filters):
        # Which source its rows are of is Milvus' to say: else the time would tell how much is hidden.
        if sources is None or (sources and _rows_have_sources(request)):
            return None
        with request.pipeline.stores.database.connection() as connection:
            found = queries.documents_of_sources(connection, filters, sources, most + 1)
        if len(found) <= most:
            return found
        if filters.language is None:
            return None
    return matching_documents(request, request.months_with() if months is None else months, most)


def _rows_have_sources(request: Request) -> bool:
    generations = request.generation.collections.generations
    return all(one.has_source for kind, one in generations.items() if kind != "multi")
