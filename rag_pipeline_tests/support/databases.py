"""A PostgreSQL database that lasts as long as a `with` block, and what makes databases cheap."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Database


@contextmanager
def temporary_database(server_url: str, label: str = "test", template: str | None = None) -> Iterator[str]:
    """The URL of a new database, dropped at the end even if somebody is still connected.

    Empty, or a copy of the database that `template` names. The database's name begins with `label`.
    """
    name = f"{label}_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template is not None:
        # Copied file by file, which takes two thirds of the time that writing every page to the log takes.
        create += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield server_url.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def prepare_database(url: str, home: Path) -> None:
    """Create our tables and Dagster's, and leave no connection open, so that the database can be a template."""
    database = Database(url, min_size=1)
    schema.migrate(database)
    database.close()
    variables = dagster_environment(load_settings(home=home), Endpoints(url, "", ""))
    program = (
        "import dagster; i = dagster.DagsterInstance.get(); i.event_log_storage, i.run_storage, i.schedule_storage"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | variables, check=True)


def skip_fsync(server_url: str) -> None:
    """Let a server answer before its data are on disk: they survive any test, though not a power failure."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")


def end_idle_lock_sessions(database: Database) -> None:
    """End the sessions that hold advisory locks and wait, as a failover does, and return when they are gone."""
    with psycopg.connect(database._url, autocommit=True) as connection:
        connection.execute(
            """
            SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE l.locktype = 'advisory' AND a.datname = current_database() AND a.state = 'idle'
            """
        )


def wait_for_blocked_session(url: str) -> None:
    """Return once a session of this database waits for a lock that another one holds."""
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 30
        while connection.execute(waiting).fetchone() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
