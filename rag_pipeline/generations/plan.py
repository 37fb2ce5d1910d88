"""What a generation costs before anything is written: a sample of the documents is cut and embedded as it would be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_pipeline.documents.chunking.chunker import chunk_document
from rag_pipeline.generation import OpenGeneration, configuration
from rag_pipeline.generations.registry import find
from rag_pipeline.stores.postgres import documents, generation_tables, schema, term_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.embedding.base import ChunkVectors, Embedder
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind

_DOCUMENTS = 200
_CHUNKS = 48
_ROW_BYTES = {"dense": 200, "sparse": 200, "multi": 210}
"""Of a row beside its vector: id, metadata, and what Milvus adds."""


@dataclass(frozen=True)
class Plan:
    """What building a generation means. Estimated from a sample, except the documents."""

    settings: dict[str, Any]
    embedder: str
    months: int
    documents: int
    characters: int
    chunks: int
    tokens: int
    """Of all chunks, counted by the embedder's tokenizer."""
    to_embed: int
    """Chunks that `embedding_cache` does not have."""
    tokens_to_embed: int
    seconds: float
    """For embedding them, by one process of this machine; writing and checking take as long as for any ingest."""
    bytes_in_milvus: int
    bytes_in_postgres: int
    sampled_documents: int

    def as_json(self) -> dict[str, Any]:
        """Return it as `rag-pipeline generations plan --json` prints it."""
        return {
            name: round(value, 1) if isinstance(value, float) else value for name, value in self.__dict__.items()
        }


def plan(pipeline: Pipeline) -> Plan:
    """Return what building a generation with this process's settings costs. Writes nothing, not even to the cache.

    Loads the embedder and embeds some chunks. Raises `ConfigError` if nothing is indexed yet, and what the embedder
    raises.
    """
    find(pipeline, None, "live")
    settings, database = pipeline.settings, pipeline.stores.database
    target = OpenGeneration(settings, pipeline.stores, None, pipeline.given_embedder)
    with database.connection() as connection:
        total = documents.totals(connection)
        sample = documents.sample(connection, _DOCUMENTS)
        stored = generation_tables.size(connection, generation_tables.live_schema(connection))
    texts: list[str] = []
    tokens = 0
    for number, document in enumerate(sample):
        pipeline.progress("cutting a sample, documents", number, len(sample))
        for draft in chunk_document(
            document.content,
            count_tokens=target.embedder.count_tokens,
            target_tokens=settings.chunk_tokens,
            title=document.title,
        ):
            texts.append(draft.embedding_text)
            tokens += draft.token_count
    characters = sum(len(document.content) for document in sample)
    factor = total.characters / characters if characters else 0.0
    missing, seconds, vectors = _embedded(pipeline, target, texts)
    share = missing / len(texts) if texts else 0.0
    per_chunk = _bytes_per_chunk(vectors, settings.vectors)
    chunks = round(len(texts) * factor)
    return Plan(
        settings=configuration(settings),
        embedder=target.description.fingerprint,
        months=len(schema.months_with_documents(database)),
        documents=total.documents,
        characters=total.characters,
        chunks=chunks,
        tokens=round(tokens * factor),
        to_embed=round(chunks * share),
        tokens_to_embed=round(tokens * factor * share),
        seconds=seconds * chunks * share,
        bytes_in_milvus=round(per_chunk * chunks),
        bytes_in_postgres=_postgres_bytes(pipeline, stored, chunks),
        sampled_documents=len(sample),
    )


def _embedded(
    pipeline: Pipeline, target: OpenGeneration, texts: Sequence[str]
) -> tuple[int, float, list[ChunkVectors]]:
    """Return how many texts the cache does not have, the seconds that one takes to embed, and some vectors."""
    kinds = target.vectors
    missing = len(texts) - (target.cache.count(texts, kinds) if pipeline.redis_answers() else 0)
    step = max(1, len(texts) // _CHUNKS)
    some = texts[::step][:_CHUNKS]
    if not some:
        return missing, 0.0, []
    embedder: Embedder = target.embedder
    embedder.encode(some[:1], kinds)  # Loads the model.
    pipeline.progress("embedding a sample, chunks", 0, len(some))
    begun = time.perf_counter()
    vectors = embedder.encode(some, kinds)
    return missing, (time.perf_counter() - begun) / len(some), vectors


def _bytes_per_chunk(sample: Sequence[ChunkVectors], kinds: Sequence[VectorKind]) -> float:
    if not sample:
        return 0.0
    total = 0
    for one in sample:
        if "dense" in kinds and one.dense is not None:
            total += _ROW_BYTES["dense"] + one.dense.nbytes
        if "sparse" in kinds and one.sparse is not None:
            total += _ROW_BYTES["sparse"] + 8 * len(one.sparse)
        if "multi" in kinds and one.multi is not None:
            total += _ROW_BYTES["multi"] * len(one.multi) + one.multi.nbytes
    return total / len(sample)


def _postgres_bytes(pipeline: Pipeline, stored: int, chunks: int) -> int:
    """What the tables take: those of the live generation, in proportion to the number of chunks."""
    with pipeline.stores.database.connection() as connection:
        now = term_statistics.live_chunks(connection)
    # The documents are copied, about half of it; the rest grows with the chunks.
    return round(stored * (0.5 + 0.5 * chunks / now)) if now else 0
