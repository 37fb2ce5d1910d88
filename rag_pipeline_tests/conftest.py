"""Real servers, started once a session, and a part of each that is the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.milvus import temporary_prefix
from rag_pipeline_tests.support.servers import temporary_servers
from rag_pipeline_tests.support.stores import Stores, temporary_redis


@pytest.fixture(scope="session")
def server_endpoints() -> Iterator[Endpoints]:
    """PostgreSQL, Milvus and Redis, shared by the whole session: use the fixtures below for a part of them."""
    with temporary_servers("tests") as servers:
        yield servers.up()


@pytest.fixture
def database_url(server_endpoints: Endpoints) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped after the test."""
    with temporary_database(server_endpoints.postgres_url) as url:
        yield url


@pytest.fixture
def redis_url(server_endpoints: Endpoints) -> Iterator[str]:
    """The URL of an empty logical Redis database."""
    with temporary_redis(server_endpoints.redis_url) as url:
        yield url


@pytest.fixture
def milvus_prefix(server_endpoints: Endpoints) -> Iterator[str]:
    """A prefix for collections and aliases; whatever carries it is dropped after the test."""
    with temporary_prefix(server_endpoints.milvus_uri) as prefix:
        yield prefix


@pytest.fixture
def stores(server_endpoints: Endpoints, database_url: str, redis_url: str, milvus_prefix: str) -> Stores:
    """The three together."""
    return Stores(Endpoints(database_url, server_endpoints.milvus_uri, redis_url), milvus_prefix)
