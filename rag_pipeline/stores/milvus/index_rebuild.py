"""Rebuilds the index of a collection while a copy of it is searched.

No server drops the index of a loaded collection, and none searches one that is not loaded. So searches are led to a copy
that has the specified index, the collection's own index is dropped and built again, and searches are led back. The
collection keeps its name and all that is written; a search finds what is written meanwhile only when it is led back. If
the process is killed, the next repair continues, or copies again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import BusyError, RagError, StoreUnavailableError
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import create, index_params, vector_field
from rag_pipeline.stores.milvus.key_ranges import ranges, read_rows
from rag_pipeline.stores.milvus.rows import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.milvus.client import Milvus
    from rag_pipeline.stores.milvus.collections import Generation

    Progress = Callable[[str, int, int], None]

_BUILD_SECONDS = 12 * 3600
"""How long a repair waits for the index of a large collection."""
_POLL_SECONDS = 1.0
_ROWS_PER_QUERY = 1000


def search_copy(milvus: Milvus, generation: Generation, progress: Progress) -> None:
    """Copy a loaded collection, with the specified index, and let searches use the copy.

    Raises a `StoreUnavailableError` if Milvus has no room for it. The copy is dropped again then, if Milvus answers.
    """
    name, copy = generation.name, generation.copy
    drop_copy(milvus, generation)  # of a rebuild that was killed: it lacks what was written since then
    try:
        with milvus.client() as client:
            create(client, generation, copy)
            partitions = sorted(client.list_partitions(name, timeout=TIMEOUT_SECONDS))
        for number, partition in enumerate(partitions):
            progress(f"copying {name}, partitions", number, len(partitions))
            _copy(milvus, name, copy, partition)
        with milvus.client() as client:
            client.flush(copy, timeout=_BUILD_SECONDS)
        load(milvus, generation.kind, copy, progress)
    except StoreUnavailableError as error:
        try:
            drop_copy(milvus, generation)
        except StoreUnavailableError:
            raise error from None
        raise StoreUnavailableError(
            f"{error} (while copying {name}, so that searches go on while its index is rebuilt; to rebuild it without "
            "a copy, stop searches and ingests, release that collection, then run `rag-pipeline repair`)"
        ) from None
    _lead_searches(milvus, name, copy)


def drop_copy(milvus: Milvus, generation: Generation) -> None:
    """Lead searches back to the collection, and drop its copy if there is one."""
    with milvus.client() as client:
        if not client.has_collection(generation.copy, timeout=TIMEOUT_SECONDS):
            return
    _lead_searches(milvus, generation.copy, generation.name)
    with milvus.client() as client:
        client.drop_collection(generation.copy, timeout=TIMEOUT_SECONDS)


def rebuild(milvus: Milvus, kind: VectorKind, name: str, progress: Progress) -> None:
    """Drop the index of a collection, build it again, and load the collection; until then it cannot be searched."""
    with milvus.client() as client:
        client.release_collection(name, timeout=TIMEOUT_SECONDS)
        for index in client.list_indexes(name, field_name=vector_field(kind), timeout=TIMEOUT_SECONDS):
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
    # By the name that it has if it was made here: Lite counts the whole collection for each answer.
    ours: dict[str, Any] | None = client.describe_index(collection, field, timeout=TIMEOUT_SECONDS)
    if ours and ours.get("field_name") == field:
        return ours
    for name in client.list_indexes(collection, field_name=field, timeout=TIMEOUT_SECONDS):
        found: dict[str, Any] | None = client.describe_index(collection, name, timeout=TIMEOUT_SECONDS)
        if found:
            return found
    return None


def _lead_searches(milvus: Milvus, away_from: str, to: str) -> None:
    """Let the aliases of one collection point to another one, and wait for the searches that have begun."""
    with milvus.client() as client:
        aliases = list(client.list_aliases(collection_name=away_from, timeout=TIMEOUT_SECONDS)["aliases"])
        for alias in aliases:
            client.alter_alias(to, alias, timeout=TIMEOUT_SECONDS)
    if aliases:
        time.sleep(_POLL_SECONDS)


def _copy(milvus: Milvus, name: str, copy: str, partition: str) -> None:
    with milvus.client() as client:
        if not client.has_partition(copy, partition, timeout=TIMEOUT_SECONDS):
            client.create_partition(copy, partition, timeout=TIMEOUT_SECONDS)
        stats = client.get_partition_stats(name, partition, timeout=TIMEOUT_SECONDS)
    for within in ranges(int(stats["row_count"]), _ROWS_PER_QUERY):
        # A server's statistics leave out what it has not flushed, so a range can hold any number of rows.
        for _, rows in read_rows(milvus, name, partition, within, ["*"], at_once=4 * _ROWS_PER_QUERY):
            write(milvus, copy, partition, rows)


def _wait(what: str, measure: Callable[[], tuple[bool, int, int]], deadline: float, progress: Progress) -> None:
    """Measure (finished, done, total) until it is finished."""
    finished, done, total = measure()
    while not finished:
        if time.monotonic() >= deadline:
            raise BusyError(f"{what}: not done after 12 hours; see Milvus' log, then run `rag-pipeline repair`")
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
