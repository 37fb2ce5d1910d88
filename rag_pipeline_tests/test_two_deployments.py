"""Two deployments in one PostgreSQL database and one Milvus: each in a schema and with a prefix of its own.

Neither sees or holds up the other: documents, vectors, locks, deletions, alerts, accounts, Dagster's runs.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from rag_pipeline.errors import BusyError, ConfigError
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock, held
from rag_pipeline.stores.postgres.database import Database, value
from rag_pipeline_tests.support.command_line import TEXT, CommandLine
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW

MONTH = "2024-03"


class Deployment(CommandLine):
    """The command line of a deployment with a schema and a prefix; its documents say its name."""

    def __init__(self, folder: Path, stores: Stores, name: str) -> None:
        folder.mkdir()
        super().__init__(folder, Stores(stores.endpoints, f"{stores.prefix}{name}_"))
        self.name = name
        self.environment |= {
            "RAG_POSTGRES_SCHEMA": name,
            "RAG_MILVUS_PREFIX": self.prefix,
            "RAG_ALERT_URLS": f"json://127.0.0.1:1/{name}",
        }

    def fill(self, count: int) -> None:
        # The same names in both, so that whatever is told apart is told apart by the deployment.
        for n in range(count):
            text = TEXT.format(n=n).replace("見出し", f"{self.name} の見出し")
            (self.docs / f"{n}.md").write_text(text, "utf-8")

    def count(self, what: str) -> int:
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            return connection.execute(f"SELECT count(*) FROM {self.name}.{what}").fetchone()[0]  # type: ignore[index]

    def vectors(self) -> int:
        with milvus_client(self.endpoints.milvus_uri) as client:
            found = client.query(
                f"{self.prefix}dense_collection", filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return found[0]["count(*)"]

    def runs(self) -> set[str]:
        with psycopg.connect(self.endpoints.postgres_url) as connection:
            rows = connection.execute(f"SELECT run_id FROM {self.name}_dagster.runs").fetchall()
        return {run for (run,) in rows}

    def found(self, query: str) -> list[str]:
        return [hit["title"] for hit in self.json("search", query, "--limit", "10")["hits"]]


@pytest.fixture
def deployments(tmp_path: Path, stores: Stores) -> tuple[Deployment, Deployment]:
    return Deployment(tmp_path / "red", stores, "red"), Deployment(tmp_path / "blue", stores, "blue")


@pytest.mark.slow
def test_they_do_not_touch_each_other(deployments: tuple[Deployment, Deployment]) -> None:
    red, blue = deployments
    red.fill(3)
    blue.fill(5)
    # The same month at once, from an empty database: schemas, partitions, collections and runs are made side by side.
    running = [
        one.start("ingest", "--json", RAG_EMBEDDER=SLOW, RAG_TEST_EMBED_LOG=str(one.folder / "embedded"))
        for one in deployments
    ]
    for process in running:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err

    assert (red.count("documents"), blue.count("documents")) == (3, 5)
    for one, other in ((red, blue), (blue, red)):
        assert one.vectors() == one.count("document_chunks") > 0
        titles = one.found("見出し")
        assert titles
        assert all(title.startswith(one.name) for title in titles), other.name
        assert one.json("check")["consistent"] is True
        assert {row["title"].split()[0] for row in one.json("documents")["documents"]} == {one.name}
    assert red.runs()
    assert blue.runs()
    assert not red.runs() & blue.runs()
    with psycopg.connect(red.endpoints.postgres_url) as connection:
        of_us = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' OR schemaname = 'dagster'"
        assert connection.execute(of_us).fetchone() == (0,)

    # A deletion, a file that cannot be read, an account and an alert of one.
    before = blue.vectors()
    (red.docs / "0.md").unlink()
    (red.docs / "1.md").write_bytes(b"\x00" * 100)
    red.run("ingest")
    assert (red.count("documents"), blue.count("documents")) == (2, 5)
    assert red.vectors() == red.count("document_chunks")
    assert blue.vectors() == before == blue.count("document_chunks")
    assert red.count("vector_deletions") == blue.count("vector_deletions") == 0
    assert red.count("source_items WHERE state = 'failed'") == 1
    assert blue.count("source_items WHERE state = 'failed'") == 0
    assert red.run("users", "invite", "someone@example.com").returncode == 0
    assert (red.count("users"), blue.count("users")) == (1, 0)
    with psycopg.connect(red.endpoints.postgres_url) as connection:
        connection.execute(
            "INSERT INTO red.alert_states (kind, name, partition, failing, since, log, event_id) "
            "VALUES ('check', 'vectors_verified', %s, true, now(), 'events', 1)",
            (f"{MONTH}-01",),
        )
    assert (len(red.json("alerts")["failing"]), len(blue.json("alerts")["failing"])) == (1, 0)

    # What one finds damaged and repairs is its own.
    with psycopg.connect(red.endpoints.postgres_url) as connection:
        connection.execute("SET search_path = red")
        connection.execute("DELETE FROM document_chunks WHERE position = 0")
        assert connection.execute("SELECT count(*) > 0 FROM red.vector_deletions").fetchone() == (True,)
        assert connection.execute("SELECT count(*) FROM blue.vector_deletions").fetchone() == (0,)
    assert blue.json("check")["consistent"] is True
    # And while one works on a month, or drains its deletions, the other does the same.
    blue.fill(6)
    with (
        closing(Database(red.endpoints.postgres_url, min_size=1, schema="red")) as database,
        advisory_lock(database, f"month {MONTH}", 0),
        advisory_lock(database, "the outbox of deletions", 0),
        advisory_lock(database, "source docs", 0),
    ):
        assert blue.json("ingest")["new"] == 1
    assert (red.count("documents"), blue.count("documents")) == (2, 6)
    assert red.count("vector_deletions") > 0
    red.run("repair")
    assert red.count("vector_deletions") == 0
    assert red.json("check")["consistent"] is True
    assert blue.vectors() == blue.count("document_chunks") > before


def test_locks_of_the_same_name_are_two(database_url: str) -> None:
    default, red, blue = (Database(database_url, min_size=1, schema=name) for name in (None, "red", "blue"))
    with closing(default), closing(red), closing(blue):
        for database in (default, red, blue):
            schema.migrate(database)
        name = f"month {MONTH}"
        with advisory_lock(red, name, 0):
            with advisory_lock(blue, name, 0), advisory_lock(default, name, 0):
                pass
            with pytest.raises(BusyError), advisory_lock(red, name, 0):
                pass
            for database, expected in ((red, {name}), (blue, set()), (default, set())):
                with database.connection() as connection:
                    assert held(connection, [name]) == expected


def test_without_a_schema_the_keys_are_those_of_earlier_versions(database_url: str) -> None:
    with closing(Database(database_url, min_size=1)) as database, advisory_lock(database, "month 2024-01", 0):
        with database.connection() as connection:
            free = value(connection, "SELECT pg_try_advisory_xact_lock(hashtextextended('month 2024-01', 0))")
        assert free is False


def test_a_schema_is_made_once_and_found_by_every_session(database_url: str) -> None:
    with closing(Database(database_url, min_size=1, schema="red")) as database:
        assert schema.migrate(database) is True
        assert schema.migrate(database) is False
        with database.connection() as connection:
            assert value(connection, "SELECT current_schema()") == "red"
            assert value(connection, "SELECT to_regclass('public.documents')") is None
        with closing(database.connect()) as session:
            assert value(session, "SELECT current_schema()") == "red"


def test_a_user_without_the_privilege_uses_a_schema_that_was_made_for_it(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE tenant LOGIN PASSWORD 'tenant'")
        connection.execute("CREATE SCHEMA red AUTHORIZATION tenant")
    try:
        url = psycopg.conninfo.make_conninfo(database_url, user="tenant", password="tenant")
        with closing(Database(url, min_size=1, schema="red")) as database:
            assert schema.migrate(database) is True
        with (
            closing(Database(url, min_size=1, schema="blue")) as database,
            pytest.raises(ConfigError, match="CREATE SCHEMA blue AUTHORIZATION tenant"),
        ):
            schema.migrate(database)
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY tenant CASCADE")
            connection.execute("DROP ROLE tenant")


def test_a_pooler_that_drops_the_schema_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = psycopg.connect

    def dropping(url: str, **settings: object) -> psycopg.Connection:
        return connect(url, **settings | {"options": "-c timezone=UTC"})

    monkeypatch.setattr(psycopg, "connect", dropping)
    with (
        closing(Database(database_url, min_size=1, schema="red")) as database,
        pytest.raises(ConfigError, match="RAG_POSTGRES_SCHEMA=red would have no effect"),
    ):
        schema.migrate(database)


@pytest.mark.parametrize("name", ["public", "dagster", "pg_red", "Red", "red-1", "1red", "red; DROP", "a" * 49])
def test_a_schema_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="RAG_POSTGRES_SCHEMA"):
        load_settings(postgres_schema=name)
