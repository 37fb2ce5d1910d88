"""One context manager for all three clients, each opened at its first use."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline.stores.redis_client import connect_redis

if TYPE_CHECKING:
    from types import TracebackType

    import redis

    from rag_pipeline.endpoints import Endpoints


class StoreConnections:
    """PostgreSQL (a pool of 1 to 20, commands end after 60 s), Milvus (10 calls at a time), Redis (at most 20).

    A context manager: at its end it closes what was opened.
    """

    def __init__(
        self, endpoints: Endpoints, postgres_schema: str | None = None, first_schema: str | None = None
    ) -> None:
        """`postgres_schema` is the deployment's; `first_schema` that of a generation which is not live."""
        self._endpoints = endpoints
        self._schema = postgres_schema
        self._first_schema = first_schema

    @cached_property
    def database(self) -> Database:
        return Database(self._endpoints.postgres_url, schema=self._schema, first_schema=self._first_schema)

    @cached_property
    def milvus(self) -> Milvus:
        return Milvus(self._endpoints.milvus_uri)

    @cached_property
    def redis(self) -> redis.Redis:
        return connect_redis(self._endpoints.redis_url)

    def close(self) -> None:
        """Close what was opened; the next use reopens it."""
        for name in ("database", "milvus", "redis"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                client.close()

    def __enter__(self) -> StoreConnections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
