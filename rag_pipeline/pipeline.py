"""Pipeline: everything that is opened once and shared by the write path, the checks, the repair and the searches.

Settings, sources, store connections, the generation with its embedder, cache and collections. Each step is a function
of its own elsewhere and takes a `Pipeline`; nothing here is a step.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from secrets import token_hex
from threading import RLock
from typing import TYPE_CHECKING, Protocol

import psycopg

from rag_pipeline.endpoints import VARIABLES, Endpoints, external_urls
from rag_pipeline.errors import ConfigError, RagError, SourceError, one_line
from rag_pipeline.generation import OpenGeneration, configuration, made_by, settings_in_use, settings_of
from rag_pipeline.redis_errors import refuses_writes
from rag_pipeline.stopwatch import Stopwatch
from rag_pipeline.stores.connections import StoreConnections
from rag_pipeline.stores.milvus.collections import has_source
from rag_pipeline.stores.postgres import expiring_months, generation_tables, generations, schema
from rag_pipeline.stores.postgres.advisory_locks import (
    fenced_lock,
    held,
    month_lock_name,
    no_other_generation_goes_live,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from types import TracebackType

    from rag_pipeline.documents.parsing.parser_pool import ParserPool
    from rag_pipeline.embedding.base import Embedder
    from rag_pipeline.embedding.cache import EmbeddingCache
    from rag_pipeline.months import Month
    from rag_pipeline.settings import Settings, VectorKind
    from rag_pipeline.sources.config import SourceConfig, SourcesFile
    from rag_pipeline.stores.milvus.collections import Collections
    from rag_pipeline.stores.postgres.generations import GenerationRow

_LOCK_WAIT_SECONDS = 3600
_SERVER_NAMES = {"postgres": "PostgreSQL", "milvus": "Milvus", "redis": "Valkey"}


class Progress(Protocol):
    """Called with how far a long step has come; without a number, with what it is waiting for."""

    def __call__(self, stage: str, done: int | None = None, total: int | None = None) -> None: ...


def silent(stage: str, done: int | None = None, total: int | None = None) -> None:
    """A `Progress` that reports to nobody."""


def find_endpoints(settings: Settings) -> Endpoints:
    """Return where the servers are: the `RAG_*` URLs, else the addresses of the embedded servers. Contacts no server.

    Raises `ConfigError` if a server is neither named nor was ever started.
    """
    urls = external_urls(settings)
    if len(urls) < len(VARIABLES):
        from rag_pipeline.local_servers import remembered_urls

        urls = remembered_urls(settings.home_path) | urls
    for server, variable in VARIABLES.items():
        if server not in urls:
            raise ConfigError(
                f"no {_SERVER_NAMES[server]} under {settings.home_path}: run `rag-pipeline up` first, or set RAG_HOME "
                f"to the folder of its data or {variable} to its address"
            )
    return Endpoints.of(urls)


class Pipeline:
    """A context manager that closes its connections at the end.

    Everything costly is created on first use, so that a run with nothing to do loads no model and no client.
    `endpoints` default to what `find_endpoints` finds, `embedder` to the one that `RAG_EMBEDDER` names.

    It works on the live generation, whichever that is, or on another one that it was opened `beside` it for.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints | None = None,
        *,
        progress: Progress = silent,
        embedder: Embedder | None = None,
    ) -> None:
        self.settings = settings
        self.endpoints = endpoints or find_endpoints(settings)
        self.stores = StoreConnections(self.endpoints, settings.postgres_schema)
        self.progress = progress
        self.stopwatch = Stopwatch()
        """Seconds by stage, of all steps that this pipeline was used for."""
        self.generations_stay = False
        """Whether its owner keeps generations from taking each other's place, so that the locks of months need not."""
        self._embedder = embedder
        self._beside: GenerationRow | None = None
        self._generation: OpenGeneration | None = None
        self._live_key: tuple[int, datetime, bool] | None = None
        self._looking = RLock()

    def beside(self, row: GenerationRow) -> Pipeline:
        """Return a pipeline for a generation that is not live, with connections of its own: its tables come first.

        It reads no sources. Where it is, see `stores/postgres/generation_tables.py`.
        """
        with self.stores.database.connection() as connection:
            tables = generation_tables.schema_of(generation_tables.live_schema(connection), row.id)
            own_row = made_by(self.settings, generations.all_of_them(connection))
        embedder = self._embedder if self._embedder and self._embedder.fingerprint == row.embedder else None
        other = Pipeline(
            settings_of(row, self.settings, own_row), self.endpoints, progress=self.progress, embedder=embedder
        )
        other.stores = StoreConnections(self.endpoints, self.settings.postgres_schema, tables)
        other.stopwatch = self.stopwatch
        other._beside = row
        return other

    @property
    def given_embedder(self) -> Embedder | None:
        """The embedder that it was opened with, in the place of the one that the settings name."""
        return self._embedder

    @property
    def is_live(self) -> bool:
        """Whether it works on the live generation: that one alone follows the sources."""
        return self._beside is None

    @property
    def number(self) -> int | None:
        """The number of the generation that it works on beside the live one; None for the live one."""
        return self._beside.id if self._beside else None

    @property
    def generation(self) -> OpenGeneration:
        """What it works with. A search or a step takes it once, with `refreshed`, and stays with it."""
        with self._looking:
            if self._generation is None:
                self._generation = self._open_generation()
            return self._generation

    def refreshed(self) -> OpenGeneration:
        """Return `generation`; another one if a switch has made it live since."""
        if self._beside is None:
            key = self._current_key()
            with self._looking:
                if self._generation is not None and key != self._live_key:
                    self._generation = None
        return self.generation

    def is_current(self, generation: OpenGeneration) -> bool:
        """Whether a generation that was taken is still the one to work with."""
        return self.refreshed() is generation

    def _current_key(self) -> tuple[int, datetime, bool] | None:
        try:
            with self.stores.database.connection() as connection:
                return generations.live_key(connection)
        except psycopg.errors.UndefinedTable:
            return None  # Nothing was ever ingested.

    def _open_generation(self) -> OpenGeneration:
        if self._beside is not None:
            return OpenGeneration(self.settings, self.stores, self._beside, self._embedder, is_live=False)
        try:
            with self.stores.database.connection() as connection:
                self._live_key = generations.live_key(connection)
                rows = generations.all_of_them(connection)
        except psycopg.errors.UndefinedTable:
            rows = []
        live = next((row for row in rows if row.state == "live"), None)
        settings, embedder = self.settings, self._embedder
        if live is not None:
            others = [row for row in rows if row is not live]
            settings = settings_in_use(settings, live, others, embedder)
            if settings is not self.settings:
                embedder = None
        return OpenGeneration(settings, self.stores, live, embedder)

    def ensure_collections(self, month: Month) -> None:
        """Create what is missing of the collections, with this month's partitions, and record their generation.

        Raises what `Collections.ensure` raises.
        """
        generation = self.generation
        if self.is_live and generation.row is None:
            generation.collections.check()
            self._record(generation)
        elif self.is_live and generation.row is not None:
            made_with = configuration(generation.settings)
            if (
                generation.row.embedder == generation.description.fingerprint
                and generation.row.settings != made_with
            ):
                with self.stores.database.connection() as connection:
                    generations.set_settings(connection, generation.row.id, made_with)
                generation.row = replace(generation.row, settings=made_with)
        self.collections.ensure(month)

    def take_prefix(self) -> None:
        """Have the collections of all generations under this process's prefix from now on, whatever they had before."""
        with self.stores.database.connection() as connection:
            generations.move_to_prefix(connection, self.settings.milvus_prefix)
        with self._looking:
            self._generation = None

    def _record(self, generation: OpenGeneration) -> None:
        described, kinds = generation.description, generation.collections.generations
        # Collections that exist stay as they are: an older program has made them, or PostgreSQL has lost their index.
        searched = next((one for kind, one in kinds.items() if kind != "multi"), None)
        has_sources = searched is None or has_source(self.stores.milvus, searched.name) is not False
        suffix = next(iter(kinds.values())).suffix
        with self.stores.database.connection() as connection:
            # A previous generation can have those names, if the live one's row was lost.
            taken = any(row.collections == suffix for row in generations.all_of_them(connection))
            row = generations.add(
                connection,
                "live",
                embedder=described.fingerprint,
                dimension=described.dimension,
                multi_dimension=described.multi_dimension,
                settings=configuration(generation.settings),
                collections=token_hex(6) if taken else suffix,
                milvus_prefix=self.settings.milvus_prefix,
                own_aliases=taken,
                has_sources=has_sources or taken,
            )
            # Another run can have been first.
            row = row or generations.live(connection)
            key = generations.live_key(connection)
        if row is None or row.embedder != described.fingerprint:
            raise RagError(
                f"another process has just begun this index with the embedder {row.embedder if row else 'unknown'}, "
                f"and this one has {described.fingerprint}: give both the same RAG_EMBEDDER"
            )
        with self._looking:
            generation.recorded(row)
            self._live_key = key

    @property
    def sources_file(self) -> SourcesFile:
        """What `sources.yaml` says now, mistakes included: it can be edited while a long run goes on."""
        from rag_pipeline.sources.config import read_sources

        return read_sources(self.settings.sources)

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The configured sources by name, without those whose entry has a mistake."""
        return {source.name: source for source in self.sources_file.sources}

    def source(self, name: str) -> SourceConfig:
        """Return a configured source.

        Raises `SourceError` if its entry has a mistake, or one that could be its entry, and `ConfigError` if no entry
        has this name.
        """
        file = self.sources_file
        source = file.source(name)
        if source is None:
            if mistake := file.mistake_about(name):
                raise SourceError(mistake)
            known = ", ".join(source.name for source in file.sources) or "none"
            raise ConfigError(f"no source {name!r} in {self.settings.sources}: it lists {known}")
        return source

    @property
    def embedder(self) -> Embedder:
        return self.generation.embedder

    def load_ahead(self, *, for_queries: bool = False) -> None:
        """Begin to load the embedder's model in another thread: for texts, or for queries.

        Raises what `embedder` raises; that its model cannot be loaded is found by whoever uses it.
        """
        from rag_pipeline.embedding.loading import load_ahead

        load_ahead(self.embedder, for_queries=for_queries)

    @property
    def cache(self) -> EmbeddingCache:
        """`embedding_cache`. If Redis does not answer, every look-up is a miss."""
        return self.generation.cache

    @property
    def collections(self) -> Collections:
        return self.generation.collections

    @property
    def vectors(self) -> tuple[VectorKind, ...]:
        """The kinds of vectors that are built."""
        return self.generation.vectors

    @cached_property
    def parser_pool(self) -> ParserPool:
        """Parses documents in processes of its own."""
        from rag_pipeline.documents.parsing.parser_pool import ParserPool

        settings = self.settings
        return ParserPool(settings.parse_workers, settings.parse_seconds, settings.parse_memory_mb)

    def redis_answers(self) -> bool:
        """Whether Redis answers. Without it everything is slower and nothing is wrong."""
        from redis import RedisError

        try:
            return bool(self.stores.redis.ping())
        except (RedisError, OSError):
            return False

    def redis_refusal(self) -> str:
        """Return why a Redis that runs takes no writes; an empty string if it does, or does not run."""
        from redis import RedisError

        try:
            self.stores.redis.ping()
        except RedisError as error:
            return one_line(error) if refuses_writes(error) else ""
        except OSError:
            pass
        return ""

    @property
    def cache_unreachable(self) -> bool:
        """Whether `embedding_cache` was used and did not answer."""
        return self.generation.cache_unreachable

    def prepare(self) -> None:
        """Bring the database's schema up to date. Cheap if it is."""
        schema.migrate(self.stores.database)

    def load_collections(self) -> None:
        """Load the existing collections: after a restart, Milvus Lite has none loaded."""
        from rag_pipeline.stores.milvus.collection_inspection import load_existing

        load_existing(self.stores.milvus, self.settings.milvus_prefix)

    @contextmanager
    def month_lock(
        self,
        month: Month,
        wait_seconds: float = _LOCK_WAIT_SECONDS,
        *,
        switch_wait_seconds: float | None = None,
    ) -> Iterator[None]:
        """Hold the lock of a month. Raises a `BusyError` if another run still holds it after `wait_seconds`.

        A switch of generations is waited for as long, or for `switch_wait_seconds`.

        The lock of a killed run ends with its session. If only the session ends, every later transaction of this
        pipeline raises a `LockLostError` until the lock is left. Meanwhile no other generation goes live; one that did
        before is the one that the holder works on.
        """
        with (
            fenced_lock(
                self.stores.database,
                month_lock_name(month, self.number),
                wait_seconds,
                lambda: self.progress(f"{month}: waiting for another run"),
                within_one_generation=not self.generations_stay,
                generation_wait_seconds=switch_wait_seconds,
            ),
            self.stores.database.one_connection(),
        ):
            self._look_again()
            yield

    @contextmanager
    def one_generation(self, wait_seconds: float = _LOCK_WAIT_SECONDS) -> Iterator[None]:
        """Work on the generation that is live now, and have none take its place meanwhile.

        Raises a `BusyError` if a switch takes longer than `wait_seconds`.
        """
        database = self.stores.database
        waiting = partial(self.progress, "waiting for a switch of generations")
        with (
            nullcontext()
            if self.generations_stay
            else no_other_generation_goes_live(database, wait_seconds, waiting)
        ):
            self._look_again()
            yield

    def _look_again(self) -> None:
        """Take the generation that is live now. Raises a `RagError` if the one beside it has become it, or is gone."""
        if self._beside is None:
            self.refreshed()
            return
        with self.stores.database.connection() as connection:
            generations.hold(connection, self._beside)

    def months_in_progress(self) -> set[Month]:
        """Return the months whose lock some run holds."""
        existing = schema.existing_months(self.stores.database)
        with self.stores.database.connection() as connection:
            names = {
                month_lock_name(month): month for month in [*existing, *expiring_months.in_progress(connection)]
            }
            return {names[name] for name in held(connection, names)}

    def close(self) -> None:
        """Close all connections and end the processes that parse documents; the next use opens them again."""
        if "parser_pool" in self.__dict__:
            self.__dict__.pop("parser_pool").close()
        self.stores.close()
        with self._looking:
            self._generation = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
