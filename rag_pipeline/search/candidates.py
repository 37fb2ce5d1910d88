"""Candidates: what one collection in Milvus finds. Keys and scores alone; what is true of them PostgreSQL knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import MAX_HITS, SEARCH_EF, Collections, vector_field
from rag_pipeline.stores.vector_ids import leading_chunk

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from rag_pipeline.embedding.base import FloatArray, SparseVector
    from rag_pipeline.stores.filters import Filters
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Generation

_NO_SUCH_COLLECTION = 100
_NOT_LOADED = 101
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)

_CHECK_SECONDS = 60
_checked: WeakKeyDictionary[Collections, float] = WeakKeyDictionary()

_T = TypeVar("_T")


@dataclass
class Candidates:
    """What one leg of a search found."""

    scores: dict[UUID, float] = field(default_factory=dict)
    """Inner products by chunk, the best first."""
    documents: dict[UUID, UUID] = field(default_factory=dict)
    """Each chunk's document."""
    exhausted: bool = True
    """There is nothing behind these: every other chunk has a worse score, or for sparse vectors none."""

    @property
    def returned(self) -> int:
        """How many hits these are."""
        return len(self.scores)

    def extend(self, more: Candidates) -> None:
        """Add what lies behind these."""
        self.scores |= more.scores
        self.documents |= more.documents
        self.exhausted = more.exhausted


def check_embedder(collections: Collections) -> None:
    """Raise where an alias leads to another embedder's vectors: every hit would be wrong.

    Asked at the first search of a process and then once a minute: an alias rarely moves, and asking takes as long
    as searching does.
    """
    now = time.monotonic()
    if now - _checked.get(collections, -inf) > _CHECK_SECONDS:
        collections.check()
        _checked[collections] = now


def find(
    milvus: Milvus,
    generation: Generation,
    vector: FloatArray | SparseVector,
    filters: Filters,
    offset: int = 0,
) -> Candidates:
    """The up to 100 nearest chunks after the first `offset`, by the collection's alias; none before the first ingest."""
    if len(vector) == 0:  # A query without a term finds nothing by its terms.
        return Candidates()

    def ask(client: MilvusClient) -> list[Any]:
        partitions = None
        if filters.since is not None or filters.until is not None:
            # A partition that is not there is an error on a real server.
            existing = client.list_partitions(generation.alias, timeout=TIMEOUT_SECONDS)
            partitions = [name for name in existing if _overlaps(name, filters)]
            if not partitions:
                return []
        parameters: dict[str, Any] = {}
        if generation.kind == "dense":
            # No HNSW search keeps fewer candidates than it returns.
            parameters["ef"] = max(SEARCH_EF, offset + MAX_HITS)
        return client.search(
            generation.alias,
            data=[vector],
            anns_field=vector_field(generation.kind),
            filter=expression(filters),
            limit=MAX_HITS,
            output_fields=["document_id"],
            search_params={"metric_type": "IP", "params": parameters},
            partition_names=partitions,
            consistency_level="Strong",
            offset=offset,
            timeout=TIMEOUT_SECONDS,
        )[0]

    hits = on_loaded(milvus, generation.alias, ask) or []
    found = Candidates(exhausted=len(hits) < MAX_HITS)
    for hit in hits:
        chunk = leading_chunk(hit["id"])
        if chunk is None:
            continue  # Not our row: the checker reports it.
        found.scores[chunk] = float(hit["distance"])
        found.documents[chunk] = UUID(hit["entity"]["document_id"])
    return found


def on_loaded(milvus: Milvus, collection: str, call: Callable[[MilvusClient], _T]) -> _T | None:
    """What the call returns; None where there is no such collection. Loads the collection where it is not.

    Asking first would cost every search what only the first one after a restart needs.
    """
    from pymilvus.exceptions import MilvusException

    with milvus.client() as client:
        try:
            return call(client)
        except MilvusException as error:
            if error.code == _NO_SUCH_COLLECTION:
                return None
            if error.code != _NOT_LOADED:
                raise
        client.load_collection(collection, timeout=TIMEOUT_SECONDS)
        return call(client)


def expression(filters: Filters) -> str:
    """The filters as Milvus writes them; rows hold whole seconds, so the dates' ends are only nearly exact."""
    clauses = []
    if filters.language is not None:
        clauses.append(f"language == {_quoted(filters.language)}")
    if filters.source_type is not None:
        clauses.append(f"source_type == {_quoted(filters.source_type)}")
    if filters.since is not None:
        clauses.append(f"created_timestamp >= {(filters.since - _EPOCH) // _SECOND}")
    if filters.until is not None:
        clauses.append(f"created_timestamp <= {-((_EPOCH - filters.until) // _SECOND)}")
    return " and ".join(clauses)


def _quoted(text: str) -> str:
    """A string literal. `Filters` lets nothing through that needs another escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _overlaps(partition: str, filters: Filters) -> bool:
    month = Month.from_milvus_partition(partition)
    return (
        month is not None
        and (filters.since is None or month.end > filters.since)
        and (filters.until is None or month.start < filters.until)
    )
