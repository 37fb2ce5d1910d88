"""Real servers, started once a session, and a part of each that is the test's own; markers; Hypothesis profiles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.databases import prepare_database, skip_fsync, temporary_database
from rag_pipeline_tests.support.milvus import quick_index_creation, temporary_prefix
from rag_pipeline_tests.support.servers import temporary_servers
from rag_pipeline_tests.support.stores import Stores, temporary_redis

_HERE = Path(__file__).parent

# Neither profile depends on the speed of the machine. `fuzz` (make fuzz) searches at random and keeps what it finds.
_ANY_SPEED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("deterministic", derandomize=True, print_blob=True, **_ANY_SPEED)
settings.register_profile("fuzz", max_examples=1000, print_blob=True, **_ANY_SPEED)
settings.load_profile("deterministic")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test that uses the session's servers; those that start their own are marked by hand.

    Where several workers share the tests, files that take long come first, so that no worker ends with one alone: those
    with slow tests, and those in this folder, which test the whole product.
    """
    for item in items:
        if "server_endpoints" in getattr(item, "fixturenames", ()):
            item.add_marker("servers")
    if hasattr(config, "workerinput"):
        long_files = {item.path for item in items if item.get_closest_marker("slow") or item.path.parent == _HERE}
        items.sort(key=lambda item: item.path not in long_files)


def pytest_collection_finish() -> None:
    """Keep what all tests import out of garbage collection: looking through it again and again takes a fifth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server_endpoints() -> Iterator[Endpoints]:
    """PostgreSQL, Milvus and Redis, shared by the whole session: use the fixtures below for a part of them."""
    with temporary_servers("tests") as servers, quick_index_creation():
        endpoints = servers.up()
        skip_fsync(endpoints.postgres_url)
        yield endpoints


@pytest.fixture(scope="session")
def prepared_database(server_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with our tables and Dagster's, to copy: creating them takes longer than most tests."""
    with temporary_database(server_endpoints.postgres_url, "prepared") as url:
        prepare_database(url, tmp_path_factory.mktemp("prepared"))
        yield url.rpartition("/")[2]


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
    """The three together, empty."""
    return Stores(Endpoints(database_url, server_endpoints.milvus_uri, redis_url), milvus_prefix)


@pytest.fixture
def prepared_stores(
    server_endpoints: Endpoints, prepared_database: str, redis_url: str, milvus_prefix: str
) -> Iterator[Stores]:
    """As `stores`, with our tables and Dagster's in PostgreSQL."""
    with temporary_database(server_endpoints.postgres_url, template=prepared_database) as url:
        yield Stores(Endpoints(url, server_endpoints.milvus_uri, redis_url), milvus_prefix)
