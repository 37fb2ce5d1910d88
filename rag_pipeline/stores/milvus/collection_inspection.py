"""Compares the collections with their specification, and repairs them.

Only what a server reports is compared: Lite leaves `M` and `efConstruction` out of an index's description although
it applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rag_pipeline.errors import RagError
from rag_pipeline.stores.milvus import index_rebuild
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import (
    COPY_SUFFIX,
    INDEXES,
    dimension_of,
    not_of_this_index,
    vector_field,
)
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
    "copy left behind",
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
        target = collections.alias_target(client, generation.search_alias)
        left = f"{generation.copy} exists: a rebuild of the index has not ended"
        copied = client.has_collection(generation.copy, timeout=TIMEOUT_SECONDS)
        if not client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
            missing = CollectionProblem(kind, "collection missing", f"{generation.name} does not exist")
            return [missing, CollectionProblem(kind, "copy left behind", left)] if copied else [missing]
        description = client.describe_collection(generation.name, timeout=TIMEOUT_SECONDS)
        dimension = dimension_of(description, kind)
        if dimension != generation.dimension:
            found.append(("dimension differs", f"{dimension}, the embedder's is {generation.dimension}"))
        aliases = {generation.search_alias: target}
        if generation.is_live and generation.own_alias:
            aliases[generation.alias] = collections.alias_target(client, generation.alias)
        for alias, points_to in aliases.items():
            if points_to is None:
                found.append(("alias missing", f"{alias} does not exist"))
            elif points_to not in (generation.name, generation.copy):
                found.append(
                    ("alias points elsewhere", f"{alias} points to {points_to}, not to {generation.name}")
                )
        index = index_rebuild.index_of(client, generation.name, vector_field(kind))
    if index is None:
        found.append(("index missing", f"{vector_field(kind)} has no index"))
    elif wrong := _differences(index, INDEXES[kind]):
        found.append(("index differs", wrong))
    if not is_loaded(collections.milvus, generation.name):
        cannot = "checked" if target == generation.copy else "searched or checked"
        found.append(("not loaded", f"{generation.name} is not loaded: it cannot be {cannot}"))
    if copied:
        found.append(("copy left behind", left))
    return [CollectionProblem(kind, what, text) for what, text in found]


def repair(
    collections: Collections, problem: CollectionProblem, progress: Callable[[str, int, int], None]
) -> None:
    """Repair one problem. Vectors that are dropped with a collection are missing afterwards: not restored here.

    If the process is killed, the next repair continues.

    Raises a `RagError` if the alias points to vectors that PostgreSQL does not know of: a person must decide whose they
    are.
    Raises `BusyError` if Milvus needs more than 12 hours to build or load.
    """
    generation, milvus = collections.generations[problem.kind], collections.milvus
    collections.invalidate()
    name = generation.name
    match problem.what:
        case "dimension differs":
            with milvus.client() as client:
                for alias in client.list_aliases(collection_name=name, timeout=TIMEOUT_SECONDS)["aliases"]:
                    client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
                client.drop_collection(name, timeout=TIMEOUT_SECONDS)
        case "alias points elsewhere":
            with milvus.client() as client:
                _reset_alias(collections, client, problem.kind)
        case "index differs":
            if is_loaded(milvus, name):
                index_rebuild.search_copy(milvus, generation, progress)
            index_rebuild.rebuild(milvus, problem.kind, name, progress)
            index_rebuild.drop_copy(milvus, generation)
        case "index missing":
            index_rebuild.rebuild(milvus, problem.kind, name, progress)
        case "not loaded":
            index_rebuild.load(milvus, problem.kind, name, progress)
        case "copy left behind":
            index_rebuild.drop_copy(milvus, generation)
    collections.ensure()


def take_aliases(collections: Collections) -> list[str]:
    """Let the aliases point to the live generation's collections; return those that they pointed to instead.

    For a PostgreSQL that was restored from before a switch of generations, or that is new. What the other collections
    hold stays: whether another index uses them, only a person can know.
    """
    collections.invalidate()
    left: set[str] = set()
    with collections.milvus.client() as client:
        for generation in collections.generations.values():
            exists = client.has_collection(generation.name, timeout=TIMEOUT_SECONDS)
            for alias in {generation.search_alias, generation.alias}:
                target = collections.alias_target(client, alias)
                if target is None or target in (generation.name, generation.copy):
                    continue
                left.add(target)
                if exists:
                    client.alter_alias(generation.name, alias, timeout=TIMEOUT_SECONDS)
                else:
                    client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
    return sorted(left)


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
    if generation.own_alias:
        client.alter_alias(generation.name, generation.search_alias, timeout=TIMEOUT_SECONDS)
        collections.name_live(generation)
        return
    target = collections.alias_target(client, generation.alias)
    generations = {name for _, name in existing_collections(collections.milvus, generation.prefix)}
    of_this_kind = {name for name in generations if name.startswith(f"{generation.prefix}{kind}_")}
    if target is not None and target.removesuffix(COPY_SUFFIX) in of_this_kind - {generation.name}:
        raise RagError(not_of_this_index(generation, target))
    client.alter_alias(generation.name, generation.alias, timeout=TIMEOUT_SECONDS)


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
