"""Candidates: the nearest chunks in one Milvus collection, as ids and scores. PostgreSQL has their current rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import numpy as np

from rag_pipeline.batching import Batches
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import SEARCH_EF, Collections, vector_field
from rag_pipeline.stores.milvus.expressions import quoted
from rag_pipeline.stores.vector_ids import leading_chunk

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from rag_pipeline.embedding.base import FloatArray, SparseVector
    from rag_pipeline.settings import SearchConsistency
    from rag_pipeline.stores.filters import Filters
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Generation

_NO_SUCH_COLLECTION = 100
_NOT_LOADED = frozenset({101, 103})
"""Released; and loading, which a server says by itself after its restart."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)

_LITE_FILTERED_EF = 1024
"""Lite's index stops after so many rows, whether they match or not; with 128, it misses most of a filtered source."""
_LITE_COMPARED = 1000
"""So many matching rows of Lite are compared with a query one by one where the index has too few of them."""
_LITE_WIDER_EF = (4096, 16_384, 100_000)
"""Where more rows match; the time grows with the square. A segment of Lite has at most 100,000 rows."""

_CHECK_SECONDS = 60
_checked: WeakKeyDictionary[Collections, float] = WeakKeyDictionary()

_T = TypeVar("_T")


@dataclass
class Candidates:
    """The candidates of one leg of a search."""

    scores: dict[UUID, float] = field(default_factory=dict)
    """Inner products by chunk, best first."""
    documents: dict[UUID, UUID] = field(default_factory=dict)
    """The document of each chunk."""
    returned: int = 0
    """The number of hits, also those that are no chunk of ours: where the next search goes on."""
    exhausted: bool = True
    """Whether no candidates follow: every other chunk scores worse or, for sparse vectors, has no score."""

    @classmethod
    def best(cls, parts: Sequence[Candidates], most: int) -> Candidates:
        """Return the best of the candidates that were looked for in parts of the index."""
        scores = {chunk: score for part in parts for chunk, score in part.scores.items()}
        documents = {chunk: document for part in parts for chunk, document in part.documents.items()}
        kept = sorted(scores, key=lambda chunk: -scores[chunk])[:most]
        return cls(
            {chunk: scores[chunk] for chunk in kept},
            {chunk: documents[chunk] for chunk in kept},
            len(kept),
            exhausted=len(kept) == len(scores) and all(part.exhausted for part in parts),
        )

    def extend(self, more: Candidates) -> None:
        """Append the candidates that follow."""
        self.scores |= more.scores
        self.documents |= more.documents
        self.returned += more.returned
        self.exhausted = more.exhausted


def check_embedder(collections: Collections) -> None:
    """Raise if an alias points to another embedder's vectors: every hit would be wrong.

    Checked at the first search of a process and then once a minute: an alias rarely moves, and checking takes as
    long as searching.
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
    limit: int,
    offset: int = 0,
    documents: Sequence[UUID] | None = None,
    sources: Sequence[UUID] | None = None,
    months: Sequence[Month] | None = None,
    consistency: SearchConsistency = "strong",
) -> Candidates:
    """Return the `limit` nearest chunks after the first `offset`, by alias; none before the first ingest.

    Only those of `documents` and in `months`, where these are not None; of `sources` too, if the collection's rows say
    which source they are of.
    """
    if len(vector) == 0:  # A query without terms matches nothing by its terms.
        return Candidates()

    from pymilvus.exceptions import MilvusException

    narrowed = expression(filters, documents, sources if generation.has_source else None)

    def ask(client: MilvusClient, vectors: Sequence[FloatArray | SparseVector]) -> list[Any]:
        partitions = None
        if months is not None:
            # A real server rejects a partition that does not exist.
            existing = client.list_partitions(generation.search_alias, timeout=TIMEOUT_SECONDS)
            wanted = frozenset(months)
            partitions = [name for name in existing if Month.from_milvus_partition(name) in wanted]
            if not partitions:
                return [[] for _ in vectors]
        is_dense = generation.kind == "dense"
        stops_early = milvus.is_lite and is_dense and bool(narrowed)

        def by_index(within: Sequence[str] | None, ef: int) -> list[Any]:
            # HNSW must keep at least as many candidates as it returns.
            parameters = {"ef": max(ef, offset + limit)} if is_dense else {}
            found: list[Any] = client.search(
                generation.search_alias,
                data=list(vectors),
                anns_field=vector_field(generation.kind),
                filter=narrowed,
                limit=limit,
                output_fields=["document_id"],
                search_params={"metric_type": "IP", "params": parameters},
                partition_names=within,
                consistency_level=consistency.capitalize(),
                offset=offset,
                timeout=TIMEOUT_SECONDS,
            )
            return found

        def nearest(within: Sequence[str] | None) -> list[Any]:
            found = by_index(within, _LITE_FILTERED_EF if stops_early else SEARCH_EF)
            if not stops_early or _are_full(found, limit):
                return found
            most = max(_LITE_COMPARED, offset + limit)
            rows = client.query(
                generation.search_alias,
                filter=narrowed,
                output_fields=["document_id", vector_field(generation.kind)],
                limit=most + 1,
                partition_names=within,
                consistency_level=consistency.capitalize(),
                timeout=TIMEOUT_SECONDS,
            )
            if len(rows) <= most:
                return _compared(rows, vector_field(generation.kind), vectors, limit, offset)
            for ef in _LITE_WIDER_EF:
                found = by_index(within, ef)
                if _are_full(found, limit):
                    break
            return found

        try:
            return nearest(partitions)
        except MilvusException as error:
            # The retention is dropping a partition, or was interrupted after releasing it. Naming partitions only
            # saves time: the dates are in the filter too.
            if partitions is None or "partition" not in error.message:
                raise
            return nearest(None)

    def together(vectors: Sequence[FloatArray | SparseVector]) -> list[Any]:
        answers = on_loaded(milvus, generation.search_alias, lambda client: ask(client, vectors))
        return [[] for _ in vectors] if answers is None else answers

    def alone(vector: FloatArray | SparseVector) -> Any:
        return together([vector])[0]

    if milvus.is_lite:
        asked_in = narrowed, None if months is None else tuple(months), limit, offset
        hits = _lane(milvus, generation.search_alias).ask(asked_in, vector, alone, together)
    else:
        hits = alone(vector)
    found = Candidates(returned=len(hits), exhausted=len(hits) < limit)
    for hit in hits:
        chunk = leading_chunk(hit["id"])
        if chunk is None:
            continue  # Not our row: the checker reports it.
        found.scores[chunk] = float(hit["distance"])
        found.documents[chunk] = UUID(hit["entity"]["document_id"])
    return found


def _are_full(found: Sequence[Sequence[Any]], limit: int) -> bool:
    return all(len(hits) >= limit for hits in found)


def _compared(
    rows: Sequence[dict[str, Any]], field: str, vectors: Sequence[Any], limit: int, offset: int
) -> list[list[dict[str, Any]]]:
    """Return the rows nearest to each vector, all of them compared, in the form of Milvus' hits."""
    if not rows:
        return [[] for _ in vectors]
    stored = np.array([row[field] for row in rows], np.float32)
    found = []
    for vector in vectors:
        scores = stored @ np.asarray(vector, np.float32)
        nearest = np.argsort(-scores, kind="stable")[offset : offset + limit]
        found.append(
            [
                {
                    "id": rows[n]["id"],
                    "distance": scores[n],
                    "entity": {"document_id": rows[n]["document_id"]},
                }
                for n in nearest
            ]
        )
    return found


_lanes: WeakKeyDictionary[Milvus, dict[str, Batches[Any, Any]]] = WeakKeyDictionary()


def _lane(milvus: Milvus, collection: str) -> Batches[Any, Any]:
    """What has the searches of a collection that come at once share a call of Lite.

    Lite looks at every row of the collection in each call, on one core: with 60,000 chunks, eight clients get almost
    twice as many answers. A real server answers several calls at once.
    """
    return _lanes.setdefault(milvus, {}).setdefault(collection, Batches(f"searches of {collection}"))


def on_loaded(milvus: Milvus, collection: str, call: Callable[[MilvusClient], _T]) -> _T | None:
    """Return what the call returns, or None if the collection does not exist. Loads the collection if necessary.

    Waits for one that is loading.

    Checking beforehand would cost every search what only the first one after a restart needs.
    """
    from pymilvus.exceptions import MilvusException

    with milvus.client() as client:
        try:
            return call(client)
        except MilvusException as error:
            if error.code == _NO_SUCH_COLLECTION:
                return None
            if error.code not in _NOT_LOADED:
                raise
        client.load_collection(collection, timeout=TIMEOUT_SECONDS)
        return call(client)


def expression(
    filters: Filters, documents: Sequence[UUID] | None = None, sources: Sequence[UUID] | None = None
) -> str:
    """Return the filters as a Milvus expression. Rows hold whole seconds, so dates are exact to the second.

    A row has no category, tags and author: where few documents match those, they are named.
    """
    clauses = []
    if sources is not None:
        clauses.append(f"source in [{', '.join(quoted(str(source)) for source in sources)}]")
    if documents is not None:
        clauses.append(f"document_id in [{', '.join(quoted(str(document)) for document in documents)}]")
    if filters.language is not None:
        clauses.append(f"language == {quoted(filters.language)}")
    if filters.source_type is not None:
        clauses.append(f"source_type == {quoted(filters.source_type)}")
    if filters.since is not None:
        clauses.append(f"created_timestamp >= {(filters.since - _EPOCH) // _SECOND}")
    if filters.until is not None:
        clauses.append(f"created_timestamp <= {-((_EPOCH - filters.until) // _SECOND)}")
    return " and ".join(clauses)
