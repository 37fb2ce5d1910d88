"""A search, from the text of a query to its hits.

Milvus returns the nearest chunks; PostgreSQL is authoritative. Candidates are looked up there, and those that are
deleted, not live, or outside the filters are discarded before anything is ranked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import psycopg

from rag_pipeline.documents.headings import section_path
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.search.candidates import Candidates, check_embedder
from rag_pipeline.search.fusion import descending, standardized
from rag_pipeline.search.lexical import lexical_weight
from rag_pipeline.search.live_by_words import live_by_words
from rag_pipeline.search.live_candidates import live_candidates
from rag_pipeline.search.maxsim import multi_scores
from rag_pipeline.search.request import Request
from rag_pipeline.search.results import MAX_LIMIT, MODES, Hit, Mode, SearchResult
from rag_pipeline.search.terms import Terms
from rag_pipeline.stopwatch import Stopwatch
from rag_pipeline.stores.filters import NO_FILTERS, Filters
from rag_pipeline.stores.postgres import search_queries as queries
from rag_pipeline.stores.postgres import sources as sources_table
from rag_pipeline.stores.postgres import term_statistics
from rag_pipeline.stores.postgres.consistency_queries import expects_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from rag_pipeline.embedding.base import ChunkVectors, EncodeQueryOf, FloatArray
    from rag_pipeline.generation import OpenGeneration
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.search_queries import FoundChunk

_log = logging.getLogger(__name__)

_LEGS: tuple[VectorKind, ...] = ("dense", "sparse")
MAX_QUERY_CHARS = 8000
"""Longer queries are truncated: more words make a search slower, not better."""
RERANKED = 50
"""The number of candidates that are reranked by their multi-vectors."""
_EXCHANGES = 5
"""How often a search begins again."""


@dataclass
class _Ranked:
    """A live chunk and its scores."""

    chunk: FoundChunk
    score: float
    dense: float | None = None
    sparse: float | None = None
    multi: float | None = None


def search(
    pipeline: Pipeline,
    query: str,
    *,
    mode: Mode = "hybrid",
    limit: int = 10,
    filters: Filters = NO_FILTERS,
    only_sources: Sequence[UUID] | None = None,
    count: bool = True,
    encode_query_of: EncodeQueryOf | None = None,
) -> SearchResult:
    """Return the chunks that answer a query best, at most `limit` (1 to 100), from live versions of documents.

    A query over 8,000 characters is truncated. An index that is empty or does not exist yet has no hits.
    `only_sources` are the ids of the sources whose documents may be found; None: all. With `count`, updates the search
    counts of the hits (`search_count`, `last_search_score`) unless that would have to wait. `encode_query_of` returns
    what stands for an embedder's `encode_query`, such as one that embeds the queries of many searches together.

    Raises `ConfigError` for an empty query, a limit out of range, or a mode whose vectors are not built, and
    `StoreUnavailableError` if PostgreSQL or Milvus is unreachable.
    """
    text = query_text(query)
    if mode not in MODES:
        raise ConfigError(f"{mode!r} is not a search mode: choose one of {', '.join(MODES)}")
    if not 1 <= limit <= MAX_LIMIT:
        raise ConfigError(f"a limit of {limit} hits is out of range: choose one from 1 to {MAX_LIMIT}")
    watch = Stopwatch()
    sources = _sources(pipeline, filters, only_sources)

    def request(generation: OpenGeneration) -> Request:
        return Request(
            pipeline, generation, text, mode, limit, filters, sources, only_sources, watch, encode_query_of
        )

    try:
        ranked = _in_one_generation(pipeline, request)
    except psycopg.errors.UndefinedTable:
        return SearchResult([], watch.seconds)  # Nothing was ever ingested, so not even the tables exist.
    except psycopg.errors.UndefinedObject:
        if term_statistics.has_table(pipeline.stores.database):
            raise RagError(
                "the text search configuration japanese is missing in PostgreSQL: run rag-pipeline repair"
            ) from None
        return SearchResult([], watch.seconds)
    except psycopg.errors.QueryCanceled:
        raise RagError("the search timed out in PostgreSQL: narrow it with filters, or use fewer words") from None
    shown = ranked[:limit]
    hits = [_hit(found) for found in shown]
    if count:
        with watch.stage("record"):
            _count_hits(pipeline, hits)
    return SearchResult(hits, watch.seconds)


def _in_one_generation(pipeline: Pipeline, request_in: Callable[[OpenGeneration], Request]) -> list[_Ranked]:
    """Search the live generation; search again if another one has gone live before the search has ended.

    What it has found can be of both then, or nothing, or an error: the tables are those of the new one, the vectors and
    the embedder those of the old one.
    """
    for _ in range(_EXCHANGES):
        generation = pipeline.refreshed()
        request = request_in(generation)
        try:
            ranked = _by_text(request) if request.mode == "fulltext" else _by_vectors(request)
        except (RagError, psycopg.Error):
            if pipeline.is_current(generation):
                raise
        else:
            if pipeline.is_current(generation):
                return ranked
    raise RagError("one generation after another went live during this search: search again")


def _sources(pipeline: Pipeline, filters: Filters, only_sources: Sequence[UUID] | None) -> Sequence[UUID] | None:
    """The sources whose documents may be found and are asked for; None: all."""
    if filters.source is None:
        return only_sources
    try:
        with pipeline.stores.database.connection() as connection:
            named = sources_table.ids_of(connection, filters.source)
    except psycopg.errors.UndefinedTable:
        return []
    return [source for source in named if only_sources is None or source in only_sources]


def query_text(query: str) -> str:
    """Return what is searched for. Raises `ConfigError` if that is nothing."""
    # NUL and lone surrogates cannot be in a document, and PostgreSQL or an embedder would reject them.
    text = query[:MAX_QUERY_CHARS].replace("\0", " ").encode("utf-8", "replace").decode().strip()
    if not text:
        raise ConfigError("the query is empty: write what to search for")
    return text


def _by_text(request: Request) -> list[_Ranked]:
    database, watch = request.pipeline.stores.database, request.watch
    with watch.stage("words"):
        weights = Terms(database, request.text, request.visible).fulltext_weights()
    return [_Ranked(chunk, score) for chunk, score in live_by_words(request, weights)]


def _by_vectors(request: Request) -> list[_Ranked]:
    pipeline, text, watch = request.pipeline, request.text, request.watch
    generation = request.generation
    legs, multi = _legs(generation, request.mode)
    generation.refuse_another_embedder()  # Before a wrong server is asked, which would be blamed for being down.
    if generation.row is None and _nothing_is_indexed(pipeline):
        return []
    with watch.stage("words"):
        terms = Terms(pipeline.stores.database, text, request.visible)
        if len(legs) > 1:
            terms.idf()  # Read here, so that the time counts for this stage and not for the embedder's.
    with watch.stage("embed"):
        vectors = _encode(request, [*legs, "multi"] if multi else legs, terms)
    with watch.stage("candidates"):
        check_embedder(generation.collections)
    found, live = live_candidates(request, legs, vectors)
    if not live:
        _refuse_if_lost(request, legs)
    with watch.stage("rank"):
        if request.mode != "hybrid":
            scores = found[legs[0]].scores
            return [_ranked(live[chunk], score, found) for chunk, score in scores.items() if chunk in live]
        ranked = _fuse(text, found, live, terms)
    if multi and vectors.multi is not None:
        with watch.stage("multi"):
            ranked = _rerank(request, vectors.multi, ranked)
    return ranked


def _nothing_is_indexed(pipeline: Pipeline) -> bool:
    """Whether there is nothing that an embedder would be needed for."""
    with pipeline.stores.database.connection() as connection:
        return not expects_vectors(connection)


def _refuse_if_lost(request: Request, legs: Sequence[VectorKind]) -> None:
    """Raise `StoreUnavailableError` if nothing was found because Milvus has lost a collection."""
    pipeline, collections = request.pipeline, request.generation.collections
    with collections.milvus.client() as client:
        aliases = [collections.generations[kind].search_alias for kind in legs]
        lost = [alias for alias in aliases if collections.alias_target(client, alias) is None]
    if not lost:
        return
    if _nothing_is_indexed(pipeline):
        return
    raise StoreUnavailableError(
        f"Milvus at {collections.milvus.where} has no {' and no '.join(lost)}, although the index has chunks: "
        "`rag-pipeline repair` restores what is missing; the mode fulltext works meanwhile"
    )


def _legs(generation: OpenGeneration, mode: Mode) -> tuple[list[VectorKind], bool]:
    """The collections that are searched, and whether the best candidates are reranked by their multi-vectors."""
    built = generation.vectors
    legs = [kind for kind in _LEGS if kind in built and mode in ("hybrid", kind)]
    if not legs:
        needed = "dense or sparse" if mode == "hybrid" else mode
        raise ConfigError(
            f"no {needed} vectors are built: add them to RAG_VECTORS ({','.join(built)}) and ingest, "
            "or search in fulltext mode"
        )
    return legs, mode == "hybrid" and "multi" in built


def _encode(request: Request, kinds: Sequence[VectorKind], terms: Terms) -> ChunkVectors:
    from rag_pipeline.embedding.validation import validate

    embedder = request.generation.embedder
    encode_query = request.encode_query_of(embedder) if request.encode_query_of else embedder.encode_query
    vectors = encode_query(request.text, kinds, terms.document_frequency)
    return validate(
        [vectors], embedder.dimension, kinds, multi_dimension=embedder.multi_dimension, names=["the query"]
    )[0]


def _fuse(
    text: str, found: Mapping[VectorKind, Candidates], live: Mapping[UUID, FoundChunk], terms: Terms
) -> list[_Ranked]:
    """Rank the live candidates by the sum of their legs' z-scores, best first."""
    chunks = [
        chunk for chunk in dict.fromkeys(key for leg in found.values() for key in leg.scores) if chunk in live
    ]
    fused = np.zeros(len(chunks))
    if "dense" in found:
        fused += standardized(found["dense"].scores, chunks)
    if "sparse" in found:
        sparse = found["sparse"]
        # If the leg returned every chunk with a word of the query, the others' inner product is known: 0.
        z_scores = standardized(sparse.scores, chunks, missing=0.0 if sparse.exhausted else None)
        if "dense" in found:
            by_dense, by_sparse = ([live[key] for key in found[kind].scores if key in live] for kind in _LEGS)
            z_scores *= lexical_weight(text, terms.idf(), by_dense, by_sparse)
        fused += z_scores
    return [_ranked(live[chunks[n]], fused[n], found) for n in descending(fused)]


def _rerank(request: Request, query: FloatArray, ranked: list[_Ranked]) -> list[_Ranked]:
    """Add the z-scores of the best candidates' MaxSim. The rest get the lowest one, and so keep their order."""
    best = [one.chunk for one in ranked[:RERANKED]]
    collection = request.generation.collections.generations["multi"]
    pipeline = request.pipeline
    scores = multi_scores(pipeline.stores.milvus, collection, query, best, pipeline.settings.search_consistency)
    z_scores = standardized(scores, [chunk.id for chunk in best])
    lowest = z_scores.min(initial=0.0)
    added = [*z_scores, *[lowest] * (len(ranked) - len(best))]
    together = [
        replace(one, score=one.score + z_score, multi=scores.get(one.chunk.id))
        for one, z_score in zip(ranked, added, strict=True)
    ]
    return [together[n] for n in descending(np.array([one.score for one in together]))]


def _ranked(chunk: FoundChunk, score: float, found: Mapping[VectorKind, Candidates]) -> _Ranked:
    of_legs = {kind: leg.scores.get(chunk.id) for kind, leg in found.items()}
    return _Ranked(chunk, float(score), dense=of_legs.get("dense"), sparse=of_legs.get("sparse"))


def _count_hits(pipeline: Pipeline, shown: Sequence[Hit]) -> None:
    """Update the search counts of the hits. A search whose hits could not be counted still succeeds."""
    if not shown:
        return
    try:
        with pipeline.stores.database.connection() as connection:
            queries.record_search(
                connection, [queries.Shown(hit.chunk_id, hit.document_created_at, hit.score) for hit in shown]
            )
    except (psycopg.Error, StoreUnavailableError) as error:
        _log.warning("the hits of this search were not counted: %s", one_line(error))


def _hit(found: _Ranked) -> Hit:
    chunk = found.chunk
    return Hit(
        document_id=chunk.document_id,
        document_created_at=chunk.document_created_at,
        source_type=chunk.source_type,
        source_id=chunk.source_id,
        source_url=chunk.source_url,
        title=chunk.title,
        language=chunk.language,
        chunk_id=chunk.id,
        position=chunk.position,
        section_title=chunk.section_title,
        content=chunk.content,
        score=found.score,
        scores={"dense": found.dense, "sparse": found.sparse, "multi": found.multi},
        category=chunk.category,
        tags=tuple(chunk.tags or ()),
        author=chunk.author,
        section_path=tuple(section_path(chunk.context, chunk.title, chunk.section_title)),
    )
