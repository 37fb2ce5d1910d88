"""A test's own part of the three shared servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.milvus import temporary_prefix


@dataclass(frozen=True)
class Stores:
    """A database, a logical Redis database and a prefix in Milvus, which nobody else uses."""

    endpoints: Endpoints
    prefix: str


@contextmanager
def temporary_redis(server_url: str, number: int = 1) -> Iterator[str]:
    """The URL of an empty logical Redis database, emptied again at the end."""
    url = f"{server_url.rpartition('/')[0]}/{number}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@contextmanager
def temporary_stores(
    servers: Endpoints, label: str = "test", *, redis_number: int = 1, template: str | None = None
) -> Iterator[Stores]:
    """Empty stores on these servers, removed at the end.

    Give stores that outlive one test a `redis_number` other than 1, which the tests' own stores share.
    """
    with (
        temporary_database(servers.postgres_url, label, template) as postgres_url,
        temporary_redis(servers.redis_url, redis_number) as redis_url,
        temporary_prefix(servers.milvus_uri, f"{label}_") as prefix,
    ):
        yield Stores(Endpoints(postgres_url, servers.milvus_uri, redis_url), prefix)
