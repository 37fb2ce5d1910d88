"""Rebuilds the index of a collection: beside it where it can be searched meanwhile, else in place.

No server drops the index of a loaded collection, and none searches one that is not loaded. So a copy with the specified
index is filled and built beside the collection, and then takes its place; Milvus keeps both until then. The caller keeps
writers away. If the process is killed, the next rebuild begins again, or finishes the exchange.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import BusyError, RagError, StoreUnavailableError
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import create, index_params, vector_field
from rag_pipeline.stores.milvus.key_ranges import MAX_ROWS, Range, ranges
from rag_pipeline.stores.milvus.rows import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Generation
    from rag_pipeline.stores.milvus.rows import Row

    Progress = Callable[[str, int, int], None]

_BUILD_SECONDS = 12 * 3600
"""How long a repair waits for the index of a large collection."""
_POLL_SECONDS = 1.0
_ROWS_PER_QUERY = 1000


def rebuild_beside(
    milvus: Milvus, generation: Generation, check_guards: Callable[[], None], progress: Progress
) -> None:
    """Copy the collection, which must be loaded, with the specified index, and let the copy take its place.

    Searches go on: of the collection until the copy is complete, built and loaded, then of the copy. `check_guards`
    raises if the caller no longer keeps writers away.
    """
    name, copy = generation.name, generation.copy
    with milvus.client() as client:
        if client.has_collection(copy, timeout=TIMEOUT_SECONDS):
            # Of a rebuild that was killed: what was written since then is not in it.
            for alias in _aliases(client, copy):
                client.alter_alias(name, alias, timeout=TIMEOUT_SECONDS)
            client.drop_collection(copy, timeout=TIMEOUT_SECONDS)
        create(client, generation, copy)
        partitions = sorted(client.list_partitions(name, timeout=TIMEOUT_SECONDS))
        for partition in partitions:
            if not client.has_partition(copy, partition, timeout=TIMEOUT_SECONDS):
                client.create_partition(copy, partition, timeout=TIMEOUT_SECONDS)
    for number, partition in enumerate(partitions):
        progress(f"copying {name}, partitions", number, len(partitions))
        for rows in _read(milvus, name, partition):
            write(milvus, copy, partition, rows)
    with milvus.client() as client:
        client.flush(copy, timeout=_BUILD_SECONDS)
    load(milvus, generation.kind, copy, progress)
    check_guards()
    with milvus.client() as client:
        for alias in _aliases(client, name):
            client.alter_alias(copy, alias, timeout=TIMEOUT_SECONDS)
    time.sleep(_POLL_SECONDS)  # for the searches that have begun
    finish_exchange(milvus, generation)


def exchange_is_unfinished(client: Any, generation: Generation, alias_target: str | None) -> bool:
    """Whether the copy took the collection's alias and not yet its name: the collection itself is gone."""
    return (
        alias_target is not None
        and alias_target == generation.copy
        and not client.has_collection(generation.name, timeout=TIMEOUT_SECONDS)
    )


def finish_exchange(milvus: Milvus, generation: Generation) -> None:
    """Give the copy the collection's name."""
    with milvus.client() as client:
        if client.has_collection(generation.name, timeout=TIMEOUT_SECONDS):
            client.drop_collection(generation.name, timeout=TIMEOUT_SECONDS)
        client.rename_collection(generation.copy, generation.name, timeout=TIMEOUT_SECONDS)
        client.load_collection(generation.name, timeout=TIMEOUT_SECONDS)  # Lite unloads what it renames.


def rebuild_in_place(milvus: Milvus, kind: VectorKind, name: str, progress: Progress) -> None:
    """Drop the index of a collection that cannot be searched anyway, and build it again."""
    with milvus.client() as client:
        client.release_collection(name, timeout=TIMEOUT_SECONDS)
        for index in client.list_indexes(name, field_name=vector_field(kind)):
            client.drop_index(name, index, timeout=TIMEOUT_SECONDS)
        client.create_index(name, index_params(kind), sync=False, timeout=TIMEOUT_SECONDS)
    load(milvus, kind, name, progress)


def load(milvus: Milvus, kind: VectorKind, name: str, progress: Progress) -> None:
    """Wait for a collection's index, load the collection, and wait for that.

    Raises `BusyError` if Milvus needs more than 12 hours.
    """
    deadline = time.monotonic() + _BUILD_SECONDS
    _wait(f"index of {name}", lambda: _rows_indexed(milvus, kind, name), deadline, progress)
    try:
        with milvus.client() as client:
            client.load_collection(name, _async=True, timeout=TIMEOUT_SECONDS)
    except StoreUnavailableError:
        # Raises if it is not loading. Lite loads within the call, for longer than that.
        _percent_loaded(milvus, name)
    _wait(f"loading {name}, percent", lambda: _percent_loaded(milvus, name), deadline, progress)


def index_of(client: Any, collection: str, field: str) -> dict[str, Any] | None:
    """Return the description of a field's index; None if it has none."""
    for name in client.list_indexes(collection, field_name=field):
        found: dict[str, Any] | None = client.describe_index(collection, name, timeout=TIMEOUT_SECONDS)
        if found:
            return found
    return None


def _aliases(client: Any, collection: str) -> list[str]:
    return list(client.list_aliases(collection_name=collection, timeout=TIMEOUT_SECONDS)["aliases"])


def _read(milvus: Milvus, collection: str, partition: str) -> Iterator[list[Row]]:
    with milvus.client() as client:
        stats = client.get_partition_stats(collection, partition, timeout=TIMEOUT_SECONDS)
    pending = ranges(int(stats["row_count"]), _ROWS_PER_QUERY)
    while pending:
        within = pending.pop()
        rows = _query(milvus, collection, partition, within)
        if len(rows) < MAX_ROWS:
            yield rows
        else:
            pending += within.halves()


def _query(milvus: Milvus, collection: str, partition: str, within: Range) -> list[Row]:
    with milvus.client() as client:
        return [
            dict(row)
            for row in client.query(
                collection,
                filter=within.filter,
                output_fields=["*"],
                partition_names=[partition],
                limit=MAX_ROWS,
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            )
        ]


def _wait(what: str, measure: Callable[[], tuple[bool, int, int]], deadline: float, progress: Progress) -> None:
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
        found = index_of(client, name, vector_field(kind)) or {}
    if found.get("state") == "Failed":
        raise RagError(f"Milvus cannot build the index of {name}: see its log, then run `rag-pipeline repair`")
    total = int(found.get("total_rows", 0))
    return found.get("state", "Finished") == "Finished", total - int(found.get("pending_index_rows", 0)), total


def _percent_loaded(milvus: Milvus, name: str) -> tuple[bool, int, int]:
    with milvus.client() as client:
        state = client.get_load_state(name, timeout=TIMEOUT_SECONDS)
    if state["state"].name == "NotLoad":
        raise StoreUnavailableError(f"Milvus did not load {name}: see its log, then run `rag-pipeline repair`")
    return state["state"].name == "Loaded", int(state.get("progress", 0)), 100
