"""Whether the collections are as specified, and how they become so again.

Only what a server reports is compared: Lite leaves `M` and `efConstruction` out of an index's description, though
it honours them.
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

What = Literal[
    "collection missing", "dimension", "alias missing", "alias elsewhere", "index missing", "index", "not loaded"
]


@dataclass(frozen=True)
class CollectionProblem:
    """Something about one collection that is not as specified."""

    kind: VectorKind
    what: What
    found: str
    """What is there instead."""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}"


def collection_problems(collections: Collections, kind: VectorKind) -> list[CollectionProblem]:
    """What is wrong with the collection of a kind that should hold vectors; its partitions are looked at apart."""
    generation = collections.generations[kind]
    found: list[tuple[What, str]] = []
    with collections.milvus.client() as client:
        if not client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
            return [CollectionProblem(kind, "collection missing", f"there is no {generation.name}")]
        description = client.describe_collection(generation.name, timeout=TIMEOUT_SECONDS)
        dimension = dimension_of(description, kind)
        if dimension != generation.dimension:
            found.append(("dimension", f"{dimension}, the embedder's is {generation.dimension}"))
        target = collections.alias_target(client, generation.alias)
        if target is None:
            found.append(("alias missing", f"there is no {generation.alias}"))
        elif target != generation.name:
            found.append(("alias elsewhere", f"{generation.alias} leads to {target}, not to {generation.name}"))
        index = _index_of(client, generation.name, vector_field(kind))
    if index is None:
        found.append(("index missing", f"{vector_field(kind)} has no index"))
    elif wrong := _differences(index, INDEXES[kind]):
        found.append(("index", wrong))
    if not is_loaded(collections.milvus, generation.name):
        found.append(("not loaded", f"{generation.name} is not loaded: it cannot be searched or checked"))
    return [CollectionProblem(kind, what, text) for what, text in found]


def mend(collections: Collections, problem: CollectionProblem) -> None:
    """Make the collection as specified again; vectors that are lost with it are missing then, not restored here.

    Raises a `RagError` where the alias leads to another embedder's vectors: which of both is right is not ours to
    say.
    """
    generation = collections.generations[problem.kind]
    collections.forget()
    name, field = generation.name, vector_field(problem.kind)
    with collections.milvus.client() as client:
        if problem.what == "dimension":
            for alias in _aliases(client, name):
                client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
            client.drop_collection(name, timeout=TIMEOUT_SECONDS)
        elif problem.what == "alias elsewhere":
            _lead_home(collections, client, problem.kind)
        elif problem.what in ("index", "index missing"):
            # A real server refuses to drop the index of a loaded collection, and so does Lite.
            client.release_collection(name, timeout=TIMEOUT_SECONDS)
            if problem.what == "index":
                for index in client.list_indexes(name, field_name=field):
                    client.drop_index(name, index, timeout=TIMEOUT_SECONDS)
            client.create_index(name, index_params(problem.kind), timeout=TIMEOUT_SECONDS)
            client.load_collection(name, timeout=TIMEOUT_SECONDS)
    collections.ensure()


def load_existing(milvus: Milvus, prefix: str) -> list[str]:
    """Load our collections that are there and not loaded, as all are after a restart of Lite; which."""
    loaded: list[str] = []
    for _, name in existing_collections(milvus, prefix):
        if not is_loaded(milvus, name):
            with milvus.client() as client:
                client.load_collection(name, timeout=TIMEOUT_SECONDS)
            loaded.append(name)
    return loaded


def _lead_home(collections: Collections, client: Any, kind: VectorKind) -> None:
    generation = collections.generations[kind]
    target = collections.alias_target(client, generation.alias)
    generations = {name for _, name in existing_collections(collections.milvus, generation.prefix)}
    of_this_kind = {name for name in generations if name.startswith(f"{generation.prefix}{kind}_")}
    if target in of_this_kind - {generation.name}:
        raise RagError(
            f"{generation.alias} leads to {target}, which holds another embedder's vectors: set RAG_EMBEDDER back "
            "to that one"
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
