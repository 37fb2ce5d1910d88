"""Receivers, and one database for the package: creating Dagster's tables takes longer than most of its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.alerts import TABLES, Inbox
from rag_pipeline_tests.support.dagster_home import DagsterHome, dagster_home
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.servers import embedded


@pytest.fixture
def make_inbox() -> Iterator[Callable[[], Inbox]]:
    made: list[Inbox] = []

    def make() -> Inbox:
        made.append(Inbox().start())
        return made[-1]

    yield make
    for inbox in made:
        inbox.stop()


@pytest.fixture
def inbox(make_inbox: Callable[[], Inbox]) -> Inbox:
    return make_inbox()


@pytest.fixture(scope="package")
def package_database_url(server_endpoints: Endpoints) -> Iterator[str]:
    with temporary_database(server_endpoints.postgres_url, "test_alerts") as url:
        yield url


@pytest.fixture(scope="package")
def package_database(package_database_url: str) -> Iterator[Database]:
    database = Database(package_database_url, min_size=1)
    schema.migrate(database)
    yield database
    database.close()


@pytest.fixture
def database(package_database: Database) -> Database:
    """The migrated database, with empty alert tables."""
    with package_database.connection() as connection:
        connection.execute(f"TRUNCATE {TABLES}")  # type: ignore[call-overload]
    return package_database


@pytest.fixture(scope="package")
def package_home(
    package_database_url: str, server_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterHome]:
    endpoints = Endpoints(package_database_url, server_endpoints.milvus_uri, server_endpoints.redis_url)
    with dagster_home(embedded(tmp_path_factory.mktemp("alerts") / "home"), endpoints) as home:
        yield home


@pytest.fixture
def home(package_home: DagsterHome, database: Database, monkeypatch: pytest.MonkeyPatch) -> DagsterHome:
    """A Dagster home in which nothing has happened yet."""
    for name, value in package_home.variables.items():
        monkeypatch.setenv(name, value)
    package_home.wipe()
    return package_home
