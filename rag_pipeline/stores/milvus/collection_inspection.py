"""Compares the collections with their specification, and repairs them.

Only what a server reports is compared: Lite leaves `M` and `efConstruction` out of an index's description although
it applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rag_pipeline.errors import RagError
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import INDEXES, dimension_of, index_params, vector_field
from rag_pipeline.stores.milvus.key_ranges import is_loaded
from rag_pipeline.stores.milvus.partitions import existing_collections

if TYPE_CHECKING:
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Collections

CollectionProblemKind = Literal[
    "collection missing",
    "dimension differs",
    "alias missing",
    "alias points elsewhere",
    "index missing",
    "index differs",
    "not loaded",
]


@dataclass(frozen=True)
class CollectionProblem:
    """A difference between one collection and its specification."""

    kind: VectorKind
    what: CollectionProblemKind
    found: str
    """What is there instead, as a phrase."""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}"


def collection_problems(collections: Collections, kind: VectorKind) -> list[CollectionProblem]:
    """Return what differs in the collection of one kind of vectors, its partitions left out."""
    generation = collections.generations[kind]
    found: list[tuple[CollectionProblemKind, str]] = []
    with collections.milvus.client() as client:
        if not client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
            return [CollectionProblem(kind, "collection missing", f"{generation.name} does not exist")]
        description = client.describe_collection(generation.name, timeout=TIMEOUT_SECONDS)
        dimension = dimension_of(description, kind)
        if dimension != generation.dimension:
            found.append(("dimension differs", f"{dimension}, the embedder's is {generation.dimension}"))
        target = collections.alias_target(client, generation.alias)
        if target is None:
            found.append(("alias missing", f"{generation.alias} does not exist"))
        elif target != generation.name:
            found.append(
                ("alias points elsewhere", f"{generation.alias} points to {target}, not to {generation.name}")
            )
        index = _index_of(client, generation.name, vector_field(kind))
    if index is None:
        found.append(("index missing", f"{vector_field(kind)} has no index"))
    elif wrong := _differences(index, INDEXES[kind]):
        found.append(("index differs", wrong))
    if not is_loaded(collections.milvus, generation.name):
        found.append(("not loaded", f"{generation.name} is not loaded: it cannot be searched or checked"))
    return [CollectionProblem(kind, what, text) for what, text in found]


def repair(collections: Collections, problem: CollectionProblem) -> None:
    """Repair one problem. Vectors that are dropped with a collection are missing afterwards: not restored here.

    Raises a `RagError` if the alias points to another embedder's vectors: a person must decide which embedder is right.
    """
    generation = collections.generations[problem.kind]
    collections.invalidate()
    name, field = generation.name, vector_field(problem.kind)
    with collections.milvus.client() as client:
        if problem.what == "dimension differs":
            for alias in _aliases(client, name):
                client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
            client.drop_collection(name, timeout=TIMEOUT_SECONDS)
        elif problem.what == "alias points elsewhere":
            _reset_alias(collections, client, problem.kind)
        elif problem.what in ("index differs", "index missing"):
            # A real server refuses to drop the index of a loaded collection, and so does Lite.
            client.release_collection(name, timeout=TIMEOUT_SECONDS)
            if problem.what == "index differs":
                for index in client.list_indexes(name, field_name=field):
                    client.drop_index(name, index, timeout=TIMEOUT_SECONDS)
            client.create_index(name, index_params(problem.kind), timeout=TIMEOUT_SECONDS)
            client.load_collection(name, timeout=TIMEOUT_SECONDS)
    collections.ensure()


def load_existing(milvus: Milvus, prefix: str) -> list[str]:
    """Load our collections that are not loaded, and return their names. After a restart of Lite none is loaded."""
    loaded: list[str] = []
    for _, name in existing_collections(milvus, prefix):
        if not is_loaded(milvus, name):
            with milvus.client() as client:
                client.load_collection(name, timeout=TIMEOUT_SECONDS)
            loaded.append(name)
    return loaded


def _reset_alias(collections: Collections, client: Any, kind: VectorKind) -> None:
    generation = collections.generations[kind]
    target = collections.alias_target(client, generation.alias)
    generations = {name for _, name in existing_collections(collections.milvus, generation.prefix)}
    of_this_kind = {name for name in generations if name.startswith(f"{generation.prefix}{kind}_")}
    if target in of_this_kind - {generation.name}:
        raise RagError(
            f"{generation.alias} points to {target}, which holds another embedder's vectors: set RAG_EMBEDDER back "
            "to that embedder"
        )
    client.alter_alias(generation.name, generation.alias, timeout=TIMEOUT_SECONDS)


def _index_of(client: Any, collection: str, field: str) -> dict[str, Any] | None:
    for name in client.list_indexes(collection, field_name=field):
        found: dict[str, Any] | None = client.describe_index(collection, name, timeout=TIMEOUT_SECONDS)
        if found:
            return found
    return None


def _aliases(client: Any, collection: str) -> list[str]:
    return list(client.list_aliases(collection_name=collection, timeout=TIMEOUT_SECONDS)["aliases"])


def _differences(found: dict[str, Any], specified: dict[str, Any]) -> str:
    wanted = {"index_type": specified["index_type"], "metric_type": specified["metric_type"]}
    wanted |= {name: value for name, value in specified["params"].items() if name in found}
    return ", ".join(
        f"{name} is {found.get(name)}, specified is {value}"
        for name, value in wanted.items()
        if not _same(found.get(name), value)
    )


def _same(found: Any, specified: Any) -> bool:
    """A real server reports the parameters of an index as strings."""
    try:
        return float(found) == float(specified)
    except (TypeError, ValueError):
        return str(found) == str(specified)
