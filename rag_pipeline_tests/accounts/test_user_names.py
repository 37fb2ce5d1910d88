"""User names: an address gets one, whatever names others have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.stores.postgres import users
from rag_pipeline.stores.postgres.database import Connection, Database, values
from rag_pipeline_tests.support.databases import temporary_database


@pytest.fixture
def connection(server_endpoints: Endpoints, prepared_database: str) -> Iterator[Connection]:
    with temporary_database(server_endpoints.postgres_url, template=prepared_database) as url:
        database = Database(url, min_size=1)
        with database.connection() as connection:
            yield connection
        database.close()


def test_addresses_that_begin_alike_each_get_an_account(connection: Connection) -> None:
    long = "x" * 99
    addresses = [f"{long}@{domain}.example.com" for domain in ("a", "b", "c", "d")]
    for email in addresses:
        assert users.insert(connection, email=email, password_hash="", role="viewer", permissions=[])
        assert not users.insert(connection, email=email.upper(), password_hash="", role="viewer", permissions=[])
    names = values(connection, "SELECT username FROM users ORDER BY email")
    assert names[:2] == [long, f"{long}@"]
    assert len(set(names)) == 4
