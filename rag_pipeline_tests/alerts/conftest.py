"""A receiver that really listens, and a Dagster instance whose storage is PostgreSQL, as in a deployment."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.conftest import embedded

TABLES = "alert_cursors, alert_states, alert_outbox, alert_receivers, alert_deliveries"


@dataclass
class Inbox:
    """An HTTP server on this machine that keeps what it accepted."""

    messages: list[dict] = field(default_factory=list)
    status: int = 200
    on_message: Callable[[dict], None] = lambda message: None
    server: ThreadingHTTPServer | None = None
    port: int = 0

    def start(self) -> Inbox:
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inbox.on_message(message)
                if inbox.status == 200:
                    inbox.messages.append(message)
                self.send_response(inbox.status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Not on standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self) -> str:
        return f"json://user:hunter2@127.0.0.1:{self.port}/token-0123456789"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    def bodies(self) -> str:
        return "\n".join(message["message"] for message in self.messages)


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
def package_database_url(stack_endpoints: Endpoints) -> Iterator[str]:
    """One database for these tests: making Dagster's tables takes longer than most of them."""
    name = f"test_alerts_{secrets.token_hex(6)}"
    with psycopg.connect(stack_endpoints.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield stack_endpoints.postgres_url.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(stack_endpoints.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="package")
def package_database(package_database_url: str) -> Iterator[Database]:
    database = Database(package_database_url, min_size=1)
    schema.migrate(database)
    yield database
    database.close()


@pytest.fixture
def database(package_database: Database) -> Database:
    """Our tables, with nothing about alerts in them."""
    with package_database.connection() as connection:
        connection.execute(f"TRUNCATE {TABLES}")  # type: ignore[call-overload]
    return package_database


@dataclass
class Home:
    """A Dagster home, and the variables that lead other processes to it."""

    variables: dict[str, str]
    instance: dg.DagsterInstance


@pytest.fixture(scope="package")
def package_home(
    package_database_url: str, stack_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    folder: Path = tmp_path_factory.mktemp("alerts")
    endpoints = Endpoints(package_database_url, stack_endpoints.milvus_uri, stack_endpoints.redis_url)
    variables = dagster_environment(embedded(folder / "home"), endpoints)
    variables |= {
        "RAG_POSTGRES_URL": endpoints.postgres_url,
        "RAG_MILVUS_URI": endpoints.milvus_uri,
        "RAG_REDIS_URL": endpoints.redis_url,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
            yield Home(variables, instance)


@pytest.fixture
def home(package_home: Home, database: Database, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A Dagster home in which nothing has happened yet."""
    for name, value in package_home.variables.items():
        monkeypatch.setenv(name, value)
    instance = package_home.instance
    instance.event_log_storage.wipe()
    instance.run_storage.wipe()
    assert instance.schedule_storage is not None
    instance.schedule_storage.wipe()
    return package_home
