"""The schema's version and the migration to it, and the monthly partitions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from rag_pipeline.errors import BusyError, ConfigError, RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import value, values
from rag_pipeline.stores.postgres.migrations import ALEMBIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rag_pipeline.stores.postgres.database import Database

_log = logging.getLogger(__name__)

HEAD = "0016"
"""The newest revision in `migrations/versions`; a test compares them."""
VERSION_TABLE = "rag_schema_version"
"""Not Alembic's default, which Dagster uses if both share a database."""

_OLDEST_SERVER = 150000
_LOCK_MILLISECONDS = 5000
"""How long a migration waits for a table. Searches that need the table wait behind it."""

_ANALYZED = {
    "documents": "id, created_at, processing_status, indexing_status",
    "document_chunks": "id, document_id, document_created_at, position, embedding_status, live, superseded, "
    "dense_vector_id, sparse_vector_id, multi_vector_id",
}
"""The columns that joins and conditions of the write path use; the long texts would take most of the time."""
_FEW_PAGES = 64
_FEW_CHUNKS = 500


def migrate(database: Database, to: str = HEAD) -> bool:
    """Bring the database to a revision; False if it is there already.

    Each revision is a transaction: what a table that one changes is locked for ends with it, and not with the index that
    a later one builds. Whoever is interrupted between two leaves the schema at the first. Cheap if nothing is to be done:
    Alembic is imported only to migrate. Several processes may call this at once. Raises a
    `RagError` if the server is too old, or the database was migrated by a newer program, and a `BusyError` if somebody
    holds a table for long.
    """
    if _version(database) == to:
        return False
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    with database.connection() as connection:
        server = connection.info.server_version
        if server < _OLDEST_SERVER:
            raise RagError(f"PostgreSQL {server // 10000} is too old: 15 or newer is needed")
        # Scans rely on it: in UTF-8, the order of bytes is that in which Python compares text.
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise RagError(
                f"the database {connection.info.dbname} is encoded in {encoding}: create one with ENCODING 'UTF8' "
                "and name it in RAG_POSTGRES_URL"
            )
    config = Config()
    config.set_main_option("script_location", "rag_pipeline.stores.postgres:migrations")
    engine = create_engine("postgresql+psycopg://", creator=database.connect, poolclass=NullPool)
    try:
        with ALEMBIC, engine.connect() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            # The session's, which ends with it: each revision has a transaction of its own.
            connection.execute(text("SELECT pg_advisory_lock(hashtext('rag_schema_version'))"))
            if database.schema and not connection.execute(text("SELECT current_schema()")).scalar():
                _create_own_schema(connection.connection.driver_connection, database.schema)
            connection.execute(text(f"SET lock_timeout = {_LOCK_MILLISECONDS}"))
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        raise BusyError(
            f"the schema cannot be migrated from {_version(database) or 'nothing'} to {to} while a backup or another "
            "long transaction holds one of its tables: nothing was lost, run again when that has ended"
        ) from None
    finally:
        engine.dispose()
    return True


def _create_own_schema(session: Any, name: str) -> None:
    try:
        session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise ConfigError(
            f"the schema {name} (RAG_POSTGRES_SCHEMA) cannot be created: {one_line(error)}; have an administrator run "
            f"CREATE SCHEMA {name} AUTHORIZATION {session.info.user}"
        ) from None


def _version(database: Database) -> str | None:
    with database.connection() as connection:
        if value(connection, "SELECT to_regclass(%s)", (VERSION_TABLE,)) is None:
            return None
        version: str | None = value(connection, f"SELECT version_num FROM {VERSION_TABLE}")
    if version is not None and version > HEAD:
        raise RagError(
            f"the database's schema is at revision {version}, this program knows {HEAD}: "
            "install the newer rag-pipeline that migrated it"
        )
    return version


def ensure_months(database: Database, months: Iterable[Month]) -> list[Month]:
    """Create the missing partitions of these months; return the months that had none."""
    wanted = sorted(set(months))
    if not wanted:
        return []
    with database.connection() as connection:
        missing = values(
            connection,
            """
            SELECT wanted.month FROM unnest(%s::text[]) AS wanted(month)
            -- Beside the tables themselves: another generation's partitions can be visible too.
            CROSS JOIN (SELECT relnamespace::regnamespace AS schema FROM pg_class WHERE oid = 'documents'::regclass) at
            WHERE to_regclass(at.schema || '.documents_' || replace(wanted.month, '-', '_')) IS NULL
               OR to_regclass(at.schema || '.document_chunks_' || replace(wanted.month, '-', '_')) IS NULL
            ORDER BY 1
            """,
            ([str(month) for month in wanted],),
        )
        for month in missing:
            connection.execute("SELECT create_monthly_partition(%s)", (Month.parse(month).start.date(),))
    return [Month.parse(month) for month in missing]


def analyze_if_grown(database: Database, month: Month) -> None:
    """Refresh the planner's statistics of a month's partitions if they have more than doubled since the last time.

    Autovacuum does so too, up to minutes later. Until then PostgreSQL takes a partition that was filled at once for an
    almost empty one, and joins its documents and chunks row by row: a batch that takes milliseconds takes seconds.
    """
    partitions = {month.postgres_partition(table): columns for table, columns in _ANALYZED.items()}
    with database.connection() as connection:
        grown = values(
            connection,
            """
            SELECT c.relname FROM unnest(%s::text[]) AS name JOIN pg_class c ON c.oid = to_regclass(name)
            WHERE pg_relation_size(c.oid) / current_setting('block_size')::int > 2 * greatest(c.relpages, %s)
            """,
            (list(partitions), _FEW_PAGES),
        )
    _analyze(database, {partition: partitions[partition] for partition in grown})


def analyze_if_rewritten(database: Database, month: Month, chunks: int) -> None:
    """Refresh the planner's statistics of a month if a run changed more than a tenth of its chunks, so many of them.

    Statistics that say that no chunk is live have the checks after the run look for its documents' chunks one by one.
    """
    if chunks < _FEW_CHUNKS:
        return
    with database.connection() as connection:
        table = month.postgres_partition("document_chunks")
        known = value(connection, "SELECT reltuples FROM pg_class WHERE oid = to_regclass(%s)", (table,))
    if chunks > known / 10:
        _analyze(database, {month.postgres_partition(name): columns for name, columns in _ANALYZED.items()})


def _analyze(database: Database, columns_of: Mapping[str, str]) -> None:
    """Refresh the statistics of partitions. They make queries fast, not right: what is locked or slow is left out."""
    for partition, columns in columns_of.items():
        try:
            with database.connection() as connection:
                connection.execute(f"ANALYZE (SKIP_LOCKED) {partition} ({columns})")
        except psycopg.errors.QueryCanceled as error:
            _log.warning("the planner's statistics of %s were not refreshed: %s", partition, one_line(error))


def months_with_documents(database: Database) -> list[Month]:
    """Return the months with at least one document, in order."""
    months = existing_months(database)
    with database.connection() as connection:
        numbers = values(
            connection,
            """
            SELECT month.number FROM unnest(%s::timestamptz[], %s::timestamptz[])
                WITH ORDINALITY AS month(start, until, number)
            WHERE EXISTS (SELECT FROM documents WHERE created_at >= month.start AND created_at < month.until)
            ORDER BY 1
            """,
            ([month.start for month in months], [month.end for month in months]),
        )
    return [months[number - 1] for number in numbers]


def existing_months(database: Database) -> list[Month]:
    """Return the months that have a partition, in order."""
    with database.connection() as connection:
        names = values(
            connection,
            "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
            "WHERE inhparent = 'documents'::regclass ORDER BY 1",
        )
    return [Month.parse(name.removeprefix("documents_").replace("_", "-")) for name in names]


def create_schema(database: Database, name: str) -> None:
    """Create a schema for somebody else's tables (Dagster's) in the same database, if it is missing.

    They go there because their sessions ask for it. Raises `ConfigError` if a pooler drops what sessions ask for.
    """
    connection = database.connect(search_path=name)
    try:
        if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
        found = value(connection, "SELECT current_schema()")
        connection.commit()
        if found != name:
            raise ConfigError(
                f"PostgreSQL at {database.where}: the pooler in front of it drops the settings of sessions, so that "
                f"Dagster's tables would not go into the schema {name}: set DAGSTER_PG_URL to the server's own address"
            )
    finally:
        connection.close()
