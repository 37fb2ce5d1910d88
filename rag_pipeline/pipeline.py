"""Pipeline: everything that is opened once and shared by the write path, the checks, the repair and the searches.

Settings, sources, store connections, the embedder and its cache, the collections. Each step is a function of its own
elsewhere and takes a `Pipeline`; nothing here is a step.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from rag_pipeline.endpoints import VARIABLES, Endpoints, external_urls
from rag_pipeline.errors import ConfigError, SourceError
from rag_pipeline.stopwatch import Stopwatch
from rag_pipeline.stores.connections import StoreConnections
from rag_pipeline.stores.postgres import expiring_months, schema
from rag_pipeline.stores.postgres.advisory_locks import fenced_lock, held, month_lock_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from rag_pipeline.documents.parsing.parser_pool import ParserPool
    from rag_pipeline.embedding.base import Embedder
    from rag_pipeline.embedding.cache import EmbeddingCache
    from rag_pipeline.months import Month
    from rag_pipeline.settings import Settings
    from rag_pipeline.sources.config import SourceConfig, SourcesFile
    from rag_pipeline.stores.milvus.collections import Collections

_LOCK_WAIT_SECONDS = 3600
_SERVER_NAMES = {"postgres": "PostgreSQL", "milvus": "Milvus", "redis": "Valkey"}


class Progress(Protocol):
    """Called with how far a long step has come."""

    def __call__(self, stage: str, done: int, total: int | None = None) -> None: ...


def silent(stage: str, done: int, total: int | None = None) -> None:
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
        self.stores = StoreConnections(self.endpoints)
        self.progress = progress
        self.stopwatch = Stopwatch()
        """Seconds by stage, of all steps that this pipeline was used for."""
        self._embedder = embedder

    @cached_property
    def sources_file(self) -> SourcesFile:
        """What `sources.yaml` says, mistakes included."""
        from rag_pipeline.sources.config import read_sources

        return read_sources(self.settings.sources)

    @cached_property
    def sources(self) -> dict[str, SourceConfig]:
        """The configured sources by name, without those whose entry has a mistake."""
        return {source.name: source for source in self.sources_file.sources}

    def source(self, name: str) -> SourceConfig:
        """Return a configured source.

        Raises `SourceError` if its entry has a mistake, or one that could be its entry, and `ConfigError` if no entry
        has this name.
        """
        if name not in self.sources:
            if mistake := self.sources_file.mistake_about(name):
                raise SourceError(mistake)
            known = ", ".join(self.sources) or "none"
            raise ConfigError(f"no source {name!r} in {self.settings.sources}: it lists {known}")
        return self.sources[name]

    @cached_property
    def embedder(self) -> Embedder:
        if self._embedder is not None:
            return self._embedder
        from rag_pipeline.embedding.factory import load_embedder

        return load_embedder(self.settings)

    @cached_property
    def cache(self) -> EmbeddingCache:
        """`embedding_cache`. If Redis does not answer, every look-up is a miss."""
        from rag_pipeline.embedding.cache import EmbeddingCache

        return EmbeddingCache(self.stores.redis, self.embedder.fingerprint, self.settings.embedding_cache_days)

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

    @property
    def cache_unreachable(self) -> bool:
        """Whether `embedding_cache` was used and did not answer."""
        return "cache" in self.__dict__ and self.cache.failures > 0

    @cached_property
    def collections(self) -> Collections:
        from rag_pipeline.embedding.factory import describe, describe_embedder
        from rag_pipeline.stores.milvus.collections import Collections, generations

        described = describe_embedder(self.settings) if self._embedder is None else describe(self._embedder)
        return Collections(
            self.stores.milvus,
            generations(
                self.settings.milvus_prefix,
                described.fingerprint,
                described.dimension,
                described.multi_dimension,
                self.settings.vectors,
            ),
        )

    def prepare(self) -> None:
        """Bring the database's schema up to date. Cheap if it is."""
        schema.migrate(self.stores.database)

    def load_collections(self) -> None:
        """Load the existing collections: after a restart, Milvus Lite has none loaded."""
        from rag_pipeline.stores.milvus.collection_inspection import load_existing

        load_existing(self.stores.milvus, self.settings.milvus_prefix)

    @contextmanager
    def month_lock(self, month: Month, wait_seconds: float = _LOCK_WAIT_SECONDS) -> Iterator[None]:
        """Hold the lock of a month. Raises a `BusyError` if another run still holds it after `wait_seconds`.

        The lock of a killed run ends with its session. If only the session ends, every later transaction of this
        pipeline raises a `LockLostError` until the lock is left.
        """
        with fenced_lock(
            self.stores.database,
            month_lock_name(month),
            wait_seconds,
            lambda: self.progress(f"{month}: waiting for another run", 0),
        ):
            yield

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
        self.__dict__.pop("cache", None)
        self.__dict__.pop("collections", None)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
