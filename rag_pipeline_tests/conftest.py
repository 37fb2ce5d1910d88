"""What every test may use: real servers, started once a session, and a corner of each that is the test's own."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.local_servers import LocalServers
from rag_pipeline.local_servers.postgres_folders import outside_folder
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline_tests.milvus_client import drop_collections


def embedded(home: Path, **named: str) -> Settings:
    """Settings of an embedded stack under `home`, but for the servers that are `named`, whatever this environment says."""
    return load_settings(**{"home": home, "postgres_url": None, "milvus_uri": None, "redis_url": None} | named)


def remove_home(home: Path) -> None:
    """Stops what runs under `home` and removes it, with what was kept for it elsewhere."""
    try:
        LocalServers(embedded(home)).down()
    finally:
        shutil.rmtree(outside_folder(home), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack_endpoints() -> Iterator[Endpoints]:
    """PostgreSQL, Milvus and Redis, shared by the whole session: use the fixtures below for a clean part."""
    folder = Path(tempfile.mkdtemp(prefix="rag-pipeline-tests-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user, which has to get in
    try:
        yield LocalServers(embedded(folder / "home")).up()
    finally:
        remove_home(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(stack_endpoints: Endpoints) -> Iterator[str]:
    """The URL of an empty PostgreSQL database that is dropped after the test, whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(stack_endpoints.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield stack_endpoints.postgres_url.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(stack_endpoints.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(stack_endpoints: Endpoints) -> Iterator[str]:
    """The URL of an empty logical Redis database."""
    url = stack_endpoints.redis_url.rpartition("/")[0] + "/1"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def milvus_prefix(stack_endpoints: Endpoints) -> Iterator[str]:
    """A prefix for names of collections and aliases; whatever has it is dropped after the test."""
    prefix = f"t{secrets.token_hex(4)}_"
    yield prefix
    drop_collections(stack_endpoints.milvus_uri, prefix)
