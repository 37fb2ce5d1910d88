"""A pooler that lends sessions anew for each transaction, or drops their settings, is refused; a direct connection is not.

A stand-in shares the connections of the real server; PgBouncer itself is tried where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from rag_pipeline.errors import ConfigError, StoreUnavailableError
from rag_pipeline.local_servers.processes import free_port, port_is_free, wait_until
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline.stores.postgres.poolers import refuse_unfit_pooler
from rag_pipeline.stores.postgres.schema import create_schema

SETTINGS = "-c timezone=UTC -c statement_timeout=60000"


class Pooled:
    """A client's connection to a pooler: of `servers`, each statement outside a transaction gets the next free one.

    `keeps` has the first server that was lent stay the client's own, as a pooler of sessions does.
    """

    def __init__(self, servers: list[psycopg.Connection], *, keeps: bool, newest_first: bool = True) -> None:
        self.info = SimpleNamespace(backend_pid=-1)  # made up by the pooler
        self._servers = servers
        self._keeps = keeps
        self._newest_first = newest_first
        self._held: psycopg.Connection | None = None

    def execute(self, sql: str) -> Any:
        server = self._held or self._servers.pop(-1 if self._newest_first else 0)
        answer = server.execute(sql)
        if self._keeps:
            self._held = server
        elif self._held is None:
            self._servers.append(server)
        return answer

    @contextmanager
    def transaction(self) -> Iterator[None]:
        kept = self._held
        self._held = self._held or self._servers.pop(-1 if self._newest_first else 0)
        yield
        if not (self._keeps or kept):
            self._servers.append(self._held)
            self._held = None

    def close(self) -> None:
        if self._held:
            self._servers.append(self._held)


@pytest.fixture
def servers(database_url: str) -> Iterator[list[psycopg.Connection]]:
    opened = [psycopg.connect(database_url, autocommit=True, options=SETTINGS) for _ in range(3)]
    yield list(opened)
    for one in opened:
        one.close()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pooler_of_transactions_is_refused(
    servers: list[psycopg.Connection], newest_first: bool, count: int
) -> None:
    del servers[count:]

    def client() -> Any:
        return Pooled(servers, keeps=False, newest_first=newest_first)

    with pytest.raises(ConfigError, match=r"host:5432/rag: .*anew for each transaction.*connect directly"):
        refuse_unfit_pooler(client(), client, "host:5432/rag")
    assert len(servers) == count


def test_a_pooler_of_sessions_is_fit(servers: list[psycopg.Connection]) -> None:
    def client() -> Any:
        return Pooled(servers, keeps=True)

    refuse_unfit_pooler(client(), client, "host:5432/rag")


def test_a_pooler_that_drops_settings_is_refused(servers: list[psycopg.Connection]) -> None:
    for one in servers:
        one.execute("SET timezone = 'Asia/Tokyo'")
        one.execute("SET statement_timeout = 0")

    def client() -> Any:
        return Pooled(servers, keeps=True)

    with pytest.raises(ConfigError, match=r"timezone is Asia/Tokyo, statement_timeout is 0"):
        refuse_unfit_pooler(client(), client, "host:5432/rag")


def test_a_direct_connection_is_asked_once(database_url: str) -> None:
    def another() -> Any:
        raise AssertionError

    with psycopg.connect(database_url, autocommit=True) as connection:
        refuse_unfit_pooler(connection, another, "host:5432/rag")


@contextmanager
def _pgbouncer(database_url: str, folder: Path, *lines: str) -> Iterator[str]:
    """PgBouncer in front of the server; its URL."""
    parts = urlsplit(database_url)
    port, name = free_port(), parts.path.strip("/")
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n{name} = host={parts.hostname} port={parts.port} user={parts.username} "
        f"password={parts.password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "default_pool_size = 30\n" + "".join(f"{line}\n" for line in lines),
        "utf-8",
    )
    program = shutil.which("pgbouncer")
    assert program
    with subprocess.Popen([program, "-q", "-u", "nobody", str(configuration)], cwd="/") as process:
        try:
            assert wait_until(lambda: not port_is_free(port), lambda: process.poll() is None, 30)
            yield f"postgresql://{parts.username}@127.0.0.1:{port}/{name}"
        finally:
            process.terminate()


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="there is no pgbouncer")
@pytest.mark.parametrize("mode", ["transaction", "statement", "session"])
def test_pgbouncer(database_url: str, tmp_path: Path, mode: str) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with (
        _pgbouncer(database_url, tmp_path, f"pool_mode = {mode}") as url,
        closing(Database(url)) as database,
        pytest.raises(StoreUnavailableError, match=r"unsupported startup parameter.*connect directly$"),
        database.connection(),
    ):
        pass
    tolerant = (f"pool_mode = {mode}", "ignore_startup_parameters = options")
    with _pgbouncer(database_url, tmp_path, *tolerant) as url, closing(Database(url)) as database:
        with pytest.raises(ConfigError, match="drops the settings of sessions"), database.connection():
            pass
        # Of the database, not of the role, which other tests share.
        with psycopg.connect(database_url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET timezone = 'UTC'")
            connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '60s'")
    with _pgbouncer(database_url, tmp_path, *tolerant) as url, closing(Database(url)) as database:
        if mode == "session":
            with database.connection() as connection:
                connection.execute("SELECT 1")
            with pytest.raises(ConfigError, match="DAGSTER_PG_URL"):
                create_schema(database, "dagster")
        else:
            with pytest.raises(ConfigError, match="anew for each transaction"), database.connection():
                pass
