"""Which generations there are, how far each is, and the beginning and the end of one."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from rag_pipeline.errors import BusyError, ConfigError
from rag_pipeline.generation import (
    OpenGeneration,
    configuration,
    fits,
    made_alike,
    refuse_another_prefix,
    same_configuration,
)
from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import Generation, generations
from rag_pipeline.stores.postgres import documents, generation_tables, schema, term_statistics
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline.stores.postgres.advisory_locks import exchange_of_generations
from rag_pipeline.stores.postgres.expected_schema import expected_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.database import Connection
    from rag_pipeline.stores.postgres.generations import GenerationRow

_T = TypeVar("_T")

_EXCHANGE_WAIT_SECONDS = 3600
_LOCK_TRIES = 240
_LOCK_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class GenerationStatus:
    """A generation, and how far it is."""

    row: GenerationRow
    months: list[Month]
    """Those that it has chunks of."""
    pending: list[Month]
    """Those with work to be done before it has all that the live one has."""
    chunks: int
    """Chunks that can be searched."""
    bytes_in_postgres: int

    def as_json(self) -> dict[str, Any]:
        """Return it as `rag-pipeline generations list --json` prints it."""
        row = self.row
        return {
            "id": row.id,
            "state": row.state,
            "embedder": row.embedder,
            "settings": dict(row.settings),
            "dimension": row.dimension,
            "created_at": _iso(row.created_at),
            "live_since": _iso(row.live_since),
            "months": [str(month) for month in self.months],
            "pending_months": [str(month) for month in self.pending],
            "chunks": self.chunks,
            "bytes_in_postgres": self.bytes_in_postgres,
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def statuses(pipeline: Pipeline) -> list[GenerationStatus]:
    """Return all generations, oldest first. None before the first run of a month."""
    with pipeline.stores.database.connection() as connection:
        rows = table.all_of_them(connection)
    return [status_of(pipeline, row) for row in rows]


def status_of(pipeline: Pipeline, row: GenerationRow) -> GenerationStatus:
    """Return how far a generation is."""
    with pipeline.stores.database.connection() as connection:
        tables = generation_tables.live_schema(connection)
        noted = table.noted(connection, row.id)
    if row.state == "live":
        return _measured(pipeline, row, tables, set())
    if row.state == "dropping":
        return GenerationStatus(row, [], [], 0, 0)
    with pipeline.beside(row) as other:
        return _measured(other, row, generation_tables.schema_of(tables, row.id), set(noted))


def _measured(pipeline: Pipeline, row: GenerationRow, tables: str, noted: set[Month]) -> GenerationStatus:
    database = pipeline.stores.database
    months = schema.months_with_documents(database)
    with database.connection() as connection:
        pending = noted | (set() if row.state == "live" else set(documents.months_unfinished(connection)))
        return GenerationStatus(
            row,
            months,
            sorted(pending),
            term_statistics.live_chunks(connection),
            generation_tables.size(connection, tables),
        )


def find(pipeline: Pipeline, generation: int | None, *states: str) -> GenerationRow:
    """Return the generation of this number, or the latest one in one of these states, in the order of the states.

    Raises `ConfigError` if there is no such one.
    """
    with pipeline.stores.database.connection() as connection:
        rows = table.all_of_them(connection)
    if generation is not None:
        for row in rows:
            if row.id == generation:
                if row.state not in states:
                    raise ConfigError(f"{row.name} is {row.state}: see `rag-pipeline generations list`")
                return row
        raise ConfigError(f"there is no generation {generation}: see `rag-pipeline generations list`")
    for state in states:
        found = [row for row in rows if row.state == state]
        if found:
            return max(found, key=lambda row: (row.live_since or row.created_at, row.id))
    raise ConfigError(_NONE[states[0]])


_NONE = {
    "building": "no generation is being built: `rag-pipeline generations build`, with the settings of the new one in the "
    "environment, begins one",
    "previous": "there is no previous generation to go back to",
    "live": "nothing is indexed yet: run `rag-pipeline ingest` first",
}


def begin(pipeline: Pipeline, *, same_settings: bool = False) -> GenerationRow:
    """Return the generation that is being built; begin one with this process's settings if there is none.

    Creates its tables. Raises `ConfigError` if one with other settings is being built,
    nothing is indexed yet, or these are the live one's settings and `same_settings` does not say that it is meant; and
    what describing its embedder raises.
    """
    database, settings = pipeline.stores.database, pipeline.settings
    made_with = configuration(settings)
    live = find(pipeline, None, "live")
    refuse_another_prefix(live, settings)
    with database.connection() as connection:
        building = next((row for row in table.all_of_them(connection) if row.state == "building"), None)
    if building is not None:
        if any(same_configuration(made_with, row.settings) for row in (building, live)):
            return building
        raise ConfigError(
            f"{building.name} is being built with other settings than these: build it without them, or drop it first: "
            f"`rag-pipeline generations drop {building.id}`"
        )
    if same_configuration(made_with, live.settings) and not same_settings:
        raise ConfigError(
            f"these are the settings of {live.name}, which is live: set those of the new one in the environment of this "
            "command, such as RAG_EMBEDDER, or say --same-settings to build it once more"
        )
    described = OpenGeneration(settings, pipeline.stores, None, pipeline.given_embedder).description

    expected = expected_schema(database, spellings=False)  # Takes seconds, so before the lock.

    def add(connection: Connection) -> GenerationRow:
        # Whoever writes documents has ended when this has been granted, and when it goes on, notes them for the new
        # row. Those from before are noted by the first that builds it.
        connection.execute("SET LOCAL lock_timeout = '500ms'")
        connection.execute("LOCK TABLE documents IN SHARE MODE")
        row = table.add(
            connection,
            "building",
            embedder=described.fingerprint,
            dimension=described.dimension,
            multi_dimension=described.multi_dimension,
            settings=made_with,
            collections=secrets.token_hex(6),
            milvus_prefix=settings.milvus_prefix,
            own_aliases=True,
            has_sources=True,
        )
        if row is None:
            raise BusyError("another process has just begun a generation: see `rag-pipeline generations list`")
        generation_tables.create(connection, row, expected)
        return row

    return when_tables_are_free(pipeline, add)


def when_tables_are_free(pipeline: Pipeline, change: Callable[[Connection], _T]) -> _T:
    """Make a change that needs locks on tables, in a transaction that waits briefly and often: others wait behind it.

    Raises `BusyError` if long queries hold the tables for a minute.
    """
    for attempt in range(_LOCK_TRIES):
        try:
            with pipeline.stores.database.connection() as connection:
                return change(connection)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if not attempt % 20:
                pipeline.progress("waiting for long queries")
            time.sleep(_LOCK_PAUSE_SECONDS)
    raise BusyError(
        "long queries hold the tables in PostgreSQL: nothing was changed, run again when they have ended"
    )


def drop(pipeline: Pipeline, generation: int) -> GenerationRow:
    """Drop a generation that is not live, from both stores; one that was half dropped, for good.

    Raises `ConfigError` if there is no such one, it is live, or the settings of this process are its: they would be
    taken for a mistake afterwards, or, if only chunks differ, cut the live generation's chunks anew.
    """
    row = find(pipeline, generation, "building", "previous", "dropping")
    if row.state != "dropping":
        own = configuration(pipeline.settings)
        if made_alike(own, row) and not fits(own, find(pipeline, None, "live")):
            raise ConfigError(
                f"this environment has the settings of {row.name}: give all processes those of the live one first "
                "(`rag-pipeline generations list` shows them), then drop it"
            )
        database = pipeline.stores.database
        with (
            exchange_of_generations(
                database, _EXCHANGE_WAIT_SECONDS, lambda: pipeline.progress("waiting for runs to end")
            ),
            database.connection() as connection,
        ):
            table.hold(connection, row, to_change=True)  # It was waited for: it can have gone live.
            table.begin_dropping(connection, row.id)
    _drop_collections(pipeline, row)
    _drop_tables(pipeline, row)
    return row


def collections_of(
    pipeline: Pipeline, row: GenerationRow, kinds: tuple[VectorKind, ...] = VECTOR_KINDS
) -> dict[VectorKind, Generation]:
    """Return the collections of a generation by kind, with aliases of its own; whether they exist is not asked."""
    return generations(
        pipeline.settings.milvus_prefix if row.milvus_prefix is None else row.milvus_prefix,
        row.embedder,
        row.dimension,
        row.multi_dimension,
        kinds,
        suffix=row.collections,
        own_aliases=True,
    )


def _drop_collections(pipeline: Pipeline, row: GenerationRow) -> None:
    kinds = collections_of(pipeline, row)
    with pipeline.stores.milvus.client() as client:
        existing = set(client.list_collections(timeout=TIMEOUT_SECONDS))
        for name in existing & {name for one in kinds.values() for name in (one.name, one.copy)}:
            for alias in client.list_aliases(collection_name=name, timeout=TIMEOUT_SECONDS)["aliases"]:
                client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
            client.release_collection(name, timeout=TIMEOUT_SECONDS)
            client.drop_collection(name, timeout=TIMEOUT_SECONDS)


def _drop_tables(pipeline: Pipeline, row: GenerationRow) -> None:
    database = pipeline.stores.database
    with database.connection() as connection:
        tables = generation_tables.schema_of(generation_tables.live_schema(connection), row.id)
    with pipeline.beside(row) as other:
        months = schema.existing_months(other.stores.database)

    def forget_references(connection: Connection) -> None:
        generation_tables.drop_references(connection, tables)

    when_tables_are_free(pipeline, forget_references)
    # Month by month: PostgreSQL has a lock for each partition and each of its indexes, and not very many of them.
    for number, month in enumerate(months):
        pipeline.progress(f"dropping {row.name}, months", number, len(months))
        when_tables_are_free(pipeline, partial(generation_tables.drop_month, schema=tables, month=month))

    def end(connection: Connection) -> None:
        generation_tables.drop(connection, tables)
        table.remove(connection, row.id)

    when_tables_are_free(pipeline, end)
