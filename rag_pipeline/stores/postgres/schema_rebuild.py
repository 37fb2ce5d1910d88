"""Repairs indexes, constraints, triggers, functions and partitions while others read and write.

Indexes of partitioned tables are built partition by partition with `CREATE INDEX CONCURRENTLY` and then attached:
on the whole table PostgreSQL builds them only while all writers wait.
(https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY)
"""

# Names of tables and indexes come from the schema or the catalog; they cannot be parameters.

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import scalar_row

from rag_pipeline.errors import BusyError, RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import value
from rag_pipeline.stores.postgres.expected_schema import expected_schema
from rag_pipeline.stores.postgres.schema_inspection import PARTITIONED, triggers_of

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Connection, Database
    from rag_pipeline.stores.postgres.schema_description import Constraint, Index, SchemaDescription
    from rag_pipeline.stores.postgres.schema_inspection import SchemaProblem

_LOCK_TIMEOUT = "5s"
"""Others queue behind a waiting lock request: better to fail, and to be run again."""


def rebuild(database: Database, problem: SchemaProblem) -> None:
    """Repair one problem.

    Raises `BusyError` if long queries hold the table, and a `RagError` with the reason if it cannot be repaired, such
    as rows that violate a missing key.
    """
    expected = expected_schema(database)
    with closing(database.connect()) as connection:
        connection.autocommit = True
        connection.execute("SET statement_timeout = 0")
        connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        try:
            _rebuild(connection, expected, problem)
        except psycopg.errors.LockNotAvailable:
            raise BusyError(f"{problem}: long queries hold the table; run again when they have ended") from None
        except psycopg.Error as error:
            raise RagError(f"{problem}; it could not be repaired: {one_line(error)}") from None


def _rebuild(connection: Connection, expected: SchemaDescription, problem: SchemaProblem) -> None:
    table, name = problem.table, problem.name
    match problem.what:
        case "text search configuration missing":
            connection.execute(expected.text_search_configurations[name])
        case "function missing" | "function differs":
            connection.execute(expected.functions[name])
        case "partition missing":
            _attach_month(connection, expected, Month.parse(name))
        case "constraint missing":
            connection.execute(_expected_constraint(expected, table, name).create())
        case "constraint differs":
            connection.execute(_expected_constraint(expected, table, name).recreate())
        case "trigger missing" | "trigger differs":
            trigger = next(t for t in triggers_of(expected, table) if t.name == name)
            connection.execute(trigger.create(table))
        case "trigger disabled":
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER {name}")
        case "leftover index":
            connection.execute(f"DROP INDEX CONCURRENTLY {_beside(connection, table, name)}")
        case "index differs" | "index missing":
            _replace_index(connection, _expected_index(expected, name))
        case "index not attached":
            _build_parts(connection, _expected_index(expected, name))
        case "index invalid":
            if table in PARTITIONED:
                _validate_partitioned_index(connection, _expected_index(expected, name))
            else:
                connection.execute(f"REINDEX INDEX CONCURRENTLY {_beside(connection, table, name)}")


def _expected_constraint(expected: SchemaDescription, table: str, name: str) -> Constraint:
    return next(c for c in expected.constraints if (c.table, c.name) == (table, name))


def _expected_index(expected: SchemaDescription, name: str) -> Index:
    for index in expected.indexes:
        if index.name == name and not index.of_constraint:
            return index
    raise RagError(
        f"{name} is the index of a key, and a partition has no part of it: detach the partition from its table and "
        "attach it again"
    )


def _beside(connection: Connection, table: str, name: str) -> str:
    """Return the name of an index with the schema of its table.

    By its plain name, one that is missing in a generation's schema would be found in that of the live one.
    """
    schema = value(
        connection, "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%s)", (table,)
    )
    return f"{schema}.{name}" if schema else name


def _replace_index(connection: Connection, index: Index) -> None:
    if index.table in PARTITIONED:
        # The only way to drop an index of a partitioned table; it takes no time.
        connection.execute(f"DROP INDEX IF EXISTS {_beside(connection, index.table, index.name)}")
        connection.execute(index.create(index.name, f"ONLY {index.table}"))
        _build_parts(connection, index)
    else:
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_beside(connection, index.table, index.name)}")
        connection.execute(index.create(index.name, index.table, concurrently=True))


def _validate_partitioned_index(connection: Connection, index: Index) -> None:
    for part in _invalid_parts(connection, index):
        connection.execute(f"REINDEX INDEX CONCURRENTLY {_beside(connection, index.table, part)}")
    _build_parts(connection, index)
    if not _is_valid(connection, index):
        # No part was left to attach, and only attaching makes the whole valid.
        _replace_index(connection, index)


def _build_parts(connection: Connection, index: Index) -> None:
    """Build and attach the index on each partition without it; the last one makes the whole valid."""
    partitions = (
        connection.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
            WHERE h.inhparent = %s::regclass AND NOT EXISTS (
                SELECT FROM pg_index i JOIN pg_inherits parts ON parts.inhrelid = i.indexrelid
                WHERE i.indrelid = p.oid AND parts.inhparent = %s::regclass)
            ORDER BY 1
            """,
            (index.table, index.name),
        )
        .fetchall()
    )
    for partition in partitions:
        month = partition.removeprefix(index.table)
        part = f"{index.name}{month}"
        # What a killed build left is of no use.
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_beside(connection, index.table, part)}")
        connection.execute(index.create(part, partition, concurrently=True))
        connection.execute(f"ALTER INDEX {index.name} ATTACH PARTITION {part}")


def _invalid_parts(connection: Connection, index: Index) -> list[str]:
    return (
        connection.cursor(row_factory=scalar_row)
        .execute(
            "SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid "
            "JOIN pg_index i ON i.indexrelid = h.inhrelid WHERE h.inhparent = %s::regclass AND NOT i.indisvalid",
            (index.name,),
        )
        .fetchall()
    )


def _is_valid(connection: Connection, index: Index) -> bool:
    return bool(
        connection.cursor(row_factory=scalar_row)
        .execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)",
            (_beside(connection, index.table, index.name),),
        )
        .fetchone()
    )


def _attach_month(connection: Connection, expected: SchemaDescription, month: Month) -> None:
    """Create the month's partitions, or attach those that were detached."""
    for parent in PARTITIONED:
        partition = month.postgres_partition(parent)
        detached = connection.execute(
            "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND NOT relispartition", (partition,)
        ).fetchone()
        if detached is not None:
            # Attaching creates them.
            for trigger in triggers_of(expected, partition):
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger.name} ON {partition}")
    connection.execute("SELECT create_monthly_partition(%s)", (month.start.date(),))
