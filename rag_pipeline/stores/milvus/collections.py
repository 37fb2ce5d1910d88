"""The three collections: their schemas and indexes, and their generations.

A generation has a physical collection of each kind, which holds one embedder's vectors; `dense_collection`,
`sparse_collection` and `multi_collection` are aliases of those of the live generation. Each month is a partition.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import DimensionMismatchError, RagError
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.milvus.client import MONTH_TIMEOUT_SECONDS, TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.expressions import has_key, in_parts
from rag_pipeline.stores.milvus.key_ranges import ranges
from rag_pipeline.stores.milvus.partitions import create_partition, partition_exists

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymilvus import CollectionSchema
    from pymilvus.milvus_client.index import IndexParams

    from rag_pipeline.stores.milvus.client import Milvus

COPY_SUFFIX = "_copy"
SEARCH_EF = 128

_FLUSH_SECONDS = 60
_MANY_ROWS = 1000
"""Lite compares a query with unflushed rows one by one: with so many it takes a twentieth of a second."""
_COUNT = "count(*)"
_COUNTED_AT_ONCE = 8192
"""Keys: a part of a month that Lite counts within a second of processor time."""
_SOURCE = "source"
_NO_SUCH_ALIAS = 1600
_LITE_NOT_FOUND = 100
_DESCRIPTIONS: dict[str, str] = {
    "dense": "Dense vectors for semantic search",
    "sparse": "Sparse vectors for keyword search",
    "multi": "Multi-vectors for fine-grained search",
}
INDEXES: dict[str, dict[str, Any]] = {
    "dense": {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 256}},
    "sparse": {
        "index_type": "SPARSE_INVERTED_INDEX",
        "metric_type": "IP",
        "params": {"drop_ratio_build": 0.2},
    },
    # Read by key, not searched: a search fetches the candidates' vectors and compares them.
    "multi": {"index_type": "FLAT", "metric_type": "IP", "params": {}},
}


def vector_field(kind: str) -> str:
    """Return the name of a collection's vector field."""
    return "vectors" if kind == "multi" else "vector"


def suffix_of(embedder: str) -> str:
    """Return how the names of the first generation's collections end: with a digest of the embedder's fingerprint."""
    return hashlib.sha256(embedder.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Generation:
    """The physical collection of one kind for one generation."""

    kind: VectorKind
    embedder: str
    dimension: int
    """Of dense vectors, or of each row of the multi-vectors; 0 for sparse."""
    prefix: str
    suffix: str
    own_alias: bool = False
    """Whether searches reach it by an alias of its own: the one of the live generation moves at a switch."""
    is_live: bool = True
    has_source: bool = False
    """Whether its rows have a field for the source; collections that older programs made have none."""

    @property
    def alias(self) -> str:
        """The name of the live generation's collection, whichever that is."""
        return f"{self.prefix}{self.kind}_collection"

    @property
    def search_alias(self) -> str:
        """The name that searches use, which points to a copy while the index is rebuilt."""
        return f"{self.name}_searched" if self.own_alias else self.alias

    @property
    def name(self) -> str:
        """The physical collection's name."""
        return f"{self.prefix}{self.kind}_{self.suffix}"

    @property
    def copy(self) -> str:
        """The physical collection that is searched while this one's index is rebuilt."""
        return f"{self.name}{COPY_SUFFIX}"


def generations(
    prefix: str,
    embedder: str,
    dimension: int,
    multi_dimension: int,
    kinds: tuple[VectorKind, ...] = VECTOR_KINDS,
    *,
    suffix: str | None = None,
    own_aliases: bool = False,
    has_sources: bool = False,
    is_live: bool = True,
) -> dict[VectorKind, Generation]:
    """Return a generation's collection of each kind; by default, that of an embedder's first generation."""
    dimensions = {"dense": dimension, "sparse": 0, "multi": multi_dimension}
    ending = suffix_of(embedder) if suffix is None else suffix
    return {
        kind: Generation(
            kind, embedder, dimensions[kind], prefix, ending, own_aliases, is_live, has_sources and kind != "multi"
        )
        for kind in kinds
    }


class Collections:
    """Creates and checks the collections of one embedder, and counts their rows."""

    def __init__(self, milvus: Milvus, generations: dict[VectorKind, Generation]) -> None:
        self.milvus = milvus
        self.generations = generations
        self._ready: set[str] = set()
        self._partitions: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._unflushed = 0
        self._flushes_later = False

    def ensure(self, month: Month | None = None) -> None:
        """Create and load what is missing: collections, indexes, aliases, and this month's partitions.

        Raises `DimensionMismatchError` or a `RagError` if an alias points to another embedder's vectors: mixing models
        in one collection would make every search wrong.
        """
        with self._lock:
            for generation in self.generations.values():
                if generation.name not in self._ready:
                    self._ensure_collection(generation)
                    self._ready.add(generation.name)
                if month is not None:
                    self._ensure_partition(generation, month)

    def invalidate(self) -> None:
        """Have the next `ensure` check everything again: others can have changed it."""
        with self._lock:
            self._ready.clear()
            self._partitions.clear()

    def check(self) -> None:
        """Raise what `ensure` raises if an alias points to another embedder's vectors; create nothing."""
        with self.milvus.client() as client:
            for generation in self.generations.values():
                current = self.alias_target(client, generation.search_alias)
                if current is not None:
                    self._check_embedder(client, generation, current)

    def stored(self, kind: VectorKind, month: Month) -> int:
        """Return the number of rows in a month's partition."""
        return self.rows_in(kind, month.milvus_partition)

    def rows_in(self, kind: VectorKind, partition: str) -> int:
        """Return the number of rows in a partition."""
        name = self.generations[kind].name
        lite = self.milvus.is_lite
        with self.milvus.client() as client:
            if not partition_exists(client, name, partition):
                return 0
            if lite:
                # Lite's count(*) ignores the partition; its statistics are exact, a real server's are not.
                stats = client.get_partition_stats(name, partition, timeout=TIMEOUT_SECONDS)
                return int(stats["row_count"])
            rows = client.query(
                name,
                filter="",
                output_fields=[_COUNT],
                partition_names=[partition],
                consistency_level="Strong",
                timeout=MONTH_TIMEOUT_SECONDS,
            )
            return int(rows[0][_COUNT])

    def searchable(self, kind: VectorKind, month: Month) -> int:
        """Return the number of a month's rows that queries find by the searches' alias and the rows' own dates.

        While an index is rebuilt, searches use a copy, which does not tell what they will find: then what is stored
        counts as searchable.
        """
        start, end = _seconds(month)
        within = f"created_timestamp >= {start} and created_timestamp < {end}"
        if self.milvus.is_lite:
            return self._searchable_in_parts(kind, month, within)
        rows = self._found(kind, month, within, [_COUNT])
        if rows is None:
            return self.stored(kind, month)
        return int(rows[0][_COUNT]) if rows else 0

    def _searchable_in_parts(self, kind: VectorKind, month: Month, within: str) -> int:
        """Count the keys: to count rows, Lite makes all of their fields, also long vectors.

        In parts, since a month has any number of them, and a call has a limit.
        """
        stored = self.stored(kind, month)
        found = 0
        for part in ranges(stored, _COUNTED_AT_ONCE):
            rows = self._found(kind, month, " and ".join(filter(None, (within, part.filter))), ["id"])
            if rows is None:
                return stored
            found += len(rows)
        return found

    def searchable_among(self, kind: VectorKind, month: Month, keys: Sequence[str]) -> int:
        """Return how many of these keys queries find, as `searchable` finds the rows of the month."""
        start, end = _seconds(month)
        found = 0
        for part in in_parts(keys):
            # Lite reads all rows for a condition that no key decides.
            rows = self._found(kind, month, has_key(part), ["id", "created_timestamp"])
            found += len(part) if rows is None else sum(start <= row["created_timestamp"] < end for row in rows)
        return found

    def _found(
        self, kind: VectorKind, month: Month, expression: str, fields: list[str]
    ) -> list[dict[str, Any]] | None:
        """Query a month by the alias, as searches do; None while they use a copy, whose rows are not all there are."""
        partitions = [month.milvus_partition]
        with self.milvus.client() as client:
            target = self.alias_target(client, self.generations[kind].search_alias)
            if target is None:
                return []
            if target == self.generations[kind].copy:
                return None
            if not client.has_partition(target, partitions[0], timeout=TIMEOUT_SECONDS):
                return []
            if client.get_load_state(target, timeout=TIMEOUT_SECONDS)["state"].name != "Loaded":
                return []
            rows = client.query(
                self.generations[kind].search_alias,
                filter=expression,
                output_fields=fields,
                partition_names=partitions,
                consistency_level="Strong",
                timeout=MONTH_TIMEOUT_SECONDS,
            )
            return [dict(row) for row in rows]

    @contextmanager
    def flushing_later(self) -> Iterator[None]:
        """Have `settle` wait for many rows: each flush makes a segment of its own. Call it once more at the end."""
        self._flushes_later = True
        try:
            yield
        finally:
            self._flushes_later = False

    def settle(self, rows: int = 0) -> None:
        """Have Lite index what was written, these rows of each collection included; see `flush`."""
        self._unflushed += rows
        if self._unflushed >= (_MANY_ROWS if self._flushes_later else 1):
            self.flush()
            self._unflushed = 0

    def flush(self) -> None:
        """Have Lite index what an ingest wrote.

        Lite searches unflushed rows by brute force. It builds the indexes of flushed ones by itself, and does not tell
        how far it is: it always says that they are ready, and counts the whole collection to say so. A real server seals
        and indexes by itself, serves growing segments meanwhile, and limits how often it can be asked to; there this
        does nothing.
        """
        if not self.milvus.is_lite:
            return
        for generation in self.generations.values():
            with self.milvus.client() as client:
                client.flush(generation.name, timeout=_FLUSH_SECONDS)

    def _ensure_collection(self, generation: Generation) -> None:
        with self.milvus.client() as client:
            current = self.alias_target(client, generation.search_alias)
            if current is not None:
                self._check_embedder(client, generation, current)
            if not client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
                create(client, generation, generation.name)
            if current != generation.copy:  # else its index is being rebuilt, which loading would prevent
                # After a restart of Lite no collection is loaded; loading twice is harmless.
                client.load_collection(generation.name, timeout=TIMEOUT_SECONDS)
            if current is None:
                client.create_alias(generation.name, generation.search_alias, timeout=TIMEOUT_SECONDS)
        self.name_live(generation)

    def name_live(self, generation: Generation) -> None:
        """Let the live generation's alias point to its collection: PostgreSQL decides which generation is live."""
        if not (generation.own_alias and generation.is_live):
            return
        with self.milvus.client() as client:
            target = self.alias_target(client, generation.alias)
            if target is None:
                client.create_alias(generation.name, generation.alias, timeout=TIMEOUT_SECONDS)
            elif target not in (generation.name, generation.copy):
                client.alter_alias(generation.name, generation.alias, timeout=TIMEOUT_SECONDS)

    def _ensure_partition(self, generation: Generation, month: Month) -> None:
        key = (generation.name, month.milvus_partition)
        if key in self._partitions:
            return
        create_partition(self.milvus, generation.name, month)
        self._partitions.add(key)

    @staticmethod
    def alias_target(client: Any, alias: str) -> str | None:
        """Return the collection that an alias points to; None if the alias does not exist."""
        from pymilvus.exceptions import MilvusException

        try:
            return client.describe_alias(alias, timeout=TIMEOUT_SECONDS)["collection_name"]
        except MilvusException as error:
            # By its code: a node or a channel of a cluster can be "not found" too. Lite has none for aliases.
            if error.code == _NO_SUCH_ALIAS or (error.code == _LITE_NOT_FOUND and "alias" in error.message):
                return None
            raise

    @staticmethod
    def _check_embedder(client: Any, generation: Generation, current: str) -> None:
        found = dimension_of(client.describe_collection(current, timeout=TIMEOUT_SECONDS), generation.kind)
        remedy = not_of_this_index(generation, current)
        if generation.dimension and found != generation.dimension:
            raise DimensionMismatchError(found, generation.dimension, remedy)
        if current not in (generation.name, generation.copy):
            raise RagError(remedy)


def not_of_this_index(generation: Generation, current: str) -> str:
    """Say what to do about an alias that points to a collection that PostgreSQL does not know of."""
    return (
        f"{generation.search_alias} points to {current}, not to {generation.name} of {generation.embedder}: if "
        "PostgreSQL was restored from before a switch of generations, or is new, `rag-pipeline repair --restored` takes "
        "the alias back; if RAG_EMBEDDER was changed, set it back; if another index uses this Milvus, give this one its "
        "own RAG_MILVUS_PREFIX"
    )


def _seconds(month: Month) -> tuple[int, int]:
    """The bounds of a month, as rows hold their dates."""
    return int(month.start.timestamp()), int(month.end.timestamp())


def dimension_of(description: dict[str, Any], kind: VectorKind) -> int:
    """Return the dimension of a described collection's vectors; 0 for sparse vectors, which have none."""
    for field in description["fields"]:
        if field["name"] == vector_field(kind):
            return int(field["params"].get("dim", 0))
    return 0


def has_source(milvus: Milvus, name: str) -> bool | None:
    """Return whether the rows of a collection have a field for the source; None if it does not exist."""
    with milvus.client() as client:
        if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
            return None
        fields = client.describe_collection(name, timeout=TIMEOUT_SECONDS)["fields"]
    return any(field["name"] == _SOURCE for field in fields)


def create(client: Any, generation: Generation, name: str) -> None:
    """Create a generation's physical collection, empty, under this name."""
    client.create_collection(
        name,
        schema=_schema(generation),
        num_shards=2,
        consistency_level="Strong",
        timeout=TIMEOUT_SECONDS,
    )
    # pymilvus waits half a second before it first asks for the index, of which there is nothing to build yet.
    client.create_index(name, index_params(generation.kind), sync=False, timeout=TIMEOUT_SECONDS)


def _schema(generation: Generation) -> CollectionSchema:
    from pymilvus import DataType, MilvusClient

    kind = generation.kind
    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=kind == "dense", description=_DESCRIPTIONS[kind]
    )
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=255)
    if kind == "sparse":
        schema.add_field("vector", DataType.SPARSE_FLOAT_VECTOR)
    else:
        schema.add_field(vector_field(kind), DataType.FLOAT_VECTOR, dim=generation.dimension)
    if kind == "multi":
        schema.add_field("token_count", DataType.INT32)
        schema.add_field("token_positions", DataType.JSON)
    schema.add_field("document_id", DataType.VARCHAR, max_length=255)
    schema.add_field("source_type", DataType.VARCHAR, max_length=50)
    if generation.has_source:
        schema.add_field(_SOURCE, DataType.VARCHAR, max_length=36)
    if kind != "multi":
        schema.add_field("language", DataType.VARCHAR, max_length=2)
    schema.add_field("chunk_position", DataType.INT32)
    if kind == "sparse":
        schema.add_field("vocabulary_size", DataType.INT32)
    schema.add_field("created_timestamp", DataType.INT64)
    return schema


def index_params(kind: VectorKind) -> IndexParams:
    """Return the index of a collection in the form that the client takes."""
    from pymilvus import MilvusClient

    params = MilvusClient.prepare_index_params()
    params.add_index(vector_field(kind), index_name=vector_field(kind), **INDEXES[kind])
    return params
