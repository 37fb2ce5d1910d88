"""Compares the collections with their specification, and repairs them.

Only what a server reports is compared: Lite leaves `M` and `efConstruction` out of an index's description although
it applies them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rag_pipeline.errors import BusyError, RagError, StoreUnavailableError
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import INDEXES, dimension_of, index_params, vector_field
from rag_pipeline.stores.milvus.key_ranges import is_loaded
from rag_pipeline.stores.milvus.partitions import existing_collections

if TYPE_CHECKING:
    from collections.abc import Callable

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

_BUILD_SECONDS = 12 * 3600
"""How long a repair waits for the index of a large collection."""
_POLL_SECONDS = 1.0


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


def repair(
    collections: Collections, problem: CollectionProblem, progress: Callable[[str, int, int], None]
) -> None:
    """Repair one problem. Vectors that are dropped with a collection are missing afterwards: not restored here.

    An index is rebuilt while the collection is not loaded, because no server drops the index of a loaded one: until it
    is built and loaded, which takes hours for millions of vectors, searches that need this collection fail. Those that
    need only the others go on. If the process is killed meanwhile, the next repair continues.

    Raises a `RagError` if the alias points to another embedder's vectors: a person must decide which embedder is right.
    Raises `BusyError` if Milvus needs more than 12 hours to build or load.
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
            client.release_collection(name, timeout=TIMEOUT_SECONDS)
            if problem.what == "index differs":
                for index in client.list_indexes(name, field_name=field):
                    client.drop_index(name, index, timeout=TIMEOUT_SECONDS)
            client.create_index(name, index_params(problem.kind), sync=False, timeout=TIMEOUT_SECONDS)
    if problem.what in ("index differs", "index missing", "not loaded"):
        _load(collections.milvus, problem.kind, name, progress)
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


def _load(milvus: Milvus, kind: VectorKind, name: str, progress: Callable[[str, int, int], None]) -> None:
    """Wait for a collection's index, load the collection, and wait for that."""
    deadline = time.monotonic() + _BUILD_SECONDS
    _wait(f"index of {name}", lambda: _rows_indexed(milvus, kind, name), deadline, progress)
    try:
        with milvus.client() as client:
            client.load_collection(name, _async=True, timeout=TIMEOUT_SECONDS)
    except StoreUnavailableError:
        _percent_loaded(
            milvus, name
        )  # Raises if it is not loading. Lite loads within the call, for longer than that.
    _wait(f"loading {name}, percent", lambda: _percent_loaded(milvus, name), deadline, progress)


def _wait(
    what: str,
    measure: Callable[[], tuple[bool, int, int]],
    deadline: float,
    progress: Callable[[str, int, int], None],
) -> None:
    """Measure (finished, done, total) until it is finished."""
    finished, done, total = measure()
    while not finished:
        if time.monotonic() >= deadline:
            raise BusyError(f"{what}: not done after 12 hours; Milvus continues, and so does the next repair")
        progress(what, done, total)
        time.sleep(_POLL_SECONDS)
        finished, done, total = measure()


def _rows_indexed(milvus: Milvus, kind: VectorKind, name: str) -> tuple[bool, int, int]:
    with milvus.client() as client:
        found = _index_of(client, name, vector_field(kind)) or {}
    if found.get("state") == "Failed":
        raise RagError(f"Milvus cannot build the index of {name}: see its log, then run `rag-pipeline repair`")
    total = int(found.get("total_rows", 0))
    return found.get("state", "Finished") == "Finished", total - int(found.get("pending_index_rows", 0)), total


def _percent_loaded(milvus: Milvus, name: str) -> tuple[bool, int, int]:
    with milvus.client() as client:
        load = client.get_load_state(name, timeout=TIMEOUT_SECONDS)
    if load["state"].name == "NotLoad":
        raise StoreUnavailableError(f"Milvus did not load {name}: see its log, then run `rag-pipeline repair`")
    return load["state"].name == "Loaded", int(load.get("progress", 0)), 100


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
