"""Makes indexes, keys, triggers and partitions as the schema declares them again, while others read and write.

Indexes of partitioned tables are built partition by partition with `CREATE INDEX CONCURRENTLY` and then attached:
on the whole table PostgreSQL only builds while all writers wait.
(https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY)
"""

# Names of tables and indexes are those of the schema or of the catalogue; they cannot be parameters.

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import BusyError, RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.expected_schema import Index, declared
from rag_pipeline.stores.postgres.schema_inspection import PARTITIONED, triggers_of

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Connection, Database
    from rag_pipeline.stores.postgres.schema_inspection import SchemaProblem

_LOCK_TIMEOUT = "5s"
"""Others wait behind whoever waits for a lock: rather give up, and be run again."""


def rebuild(database: Database, problem: SchemaProblem) -> None:
    """Put one problem right. Raises `BusyError` where long queries hold the table, and a `RagError` with the reason
    where it cannot be done: rows that a missing key forbids, say."""
    with closing(database.connect()) as connection:
        connection.autocommit = True
        connection.execute("SET statement_timeout = 0")
        connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        try:
            _rebuild(connection, problem)
        except psycopg.errors.LockNotAvailable:
            raise BusyError(f"{problem}: long queries hold the table; run again when they have ended") from None
        except psycopg.Error as error:
            raise RagError(f"{problem}, and it could not be mended: {one_line(error)}") from None


def _rebuild(connection: Connection, problem: SchemaProblem) -> None:
    table, name = problem.table, problem.name
    match problem.what:
        case "configuration missing":
            connection.execute(declared().configurations[name])
        case "function missing":
            connection.execute(declared().functions[name])
        case "partition missing":
            _attach_month(connection, Month.parse(name))
        case "constraint missing":
            constraint = next(c for c in declared().constraints if (c.table, c.name) == (table, name))
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {constraint.definition}")
        case "trigger missing":
            trigger = next(t for t in triggers_of(table) if t.name == name)
            connection.execute(trigger.create(table))
        case "trigger disabled":
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER {name}")
        case "index left behind":
            connection.execute(f"DROP INDEX CONCURRENTLY {name}")
        case "index" | "index missing":
            index = _declared_index(name)
            if index.table in PARTITIONED:
                # PostgreSQL drops an index of a partitioned table in no other way; it takes no time.
                connection.execute(f"DROP INDEX IF EXISTS {name}")
                connection.execute(index.create(name, f"ONLY {index.table}"))
                _build_parts(connection, index)
            else:
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
                connection.execute(index.create(name, index.table, concurrently=True))
        case "index not attached":
            _build_parts(connection, _declared_index(name))
        case "index invalid":
            _revive(connection, table, name)


def _declared_index(name: str) -> Index:
    for index in declared().indexes:
        if index.name == name:
            return index
    raise RagError(
        f"{name} is the index of a key, and a partition lacks it: detach the partition from its table, attach it again"
    )


def _revive(connection: Connection, table: str, name: str) -> None:
    if table not in PARTITIONED:
        connection.execute(f"REINDEX INDEX CONCURRENTLY {name}")
        return
    index = _declared_index(name)
    for part in _parts(connection, name, valid=False):
        connection.execute(f"REINDEX INDEX CONCURRENTLY {part}")
    _build_parts(connection, index)
    if not _is_valid(connection, name):
        # Nothing was left to attach, and only attaching makes it valid.
        connection.execute(f"DROP INDEX {name}")
        connection.execute(index.create(name, f"ONLY {index.table}"))
        _build_parts(connection, index)


def _build_parts(connection: Connection, index: Index) -> None:
    """Build the index on each partition that lacks it, and attach it; with the last one, the whole becomes valid."""
    rows = connection.execute(
        """
        SELECT p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
        WHERE h.inhparent = %s::regclass AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_inherits parts ON parts.inhrelid = i.indexrelid
            WHERE i.indrelid = p.oid AND parts.inhparent = %s::regclass)
        ORDER BY 1
        """,
        (index.table, index.name),
    ).fetchall()
    for (partition,) in rows:
        month = partition.removeprefix(index.table)
        part = f"{index.name}{month}"
        # Left behind by a build that was killed: as good as none.
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part}")
        connection.execute(index.create(part, partition, concurrently=True))
        connection.execute(f"ALTER INDEX {index.name} ATTACH PARTITION {part}")


def _parts(connection: Connection, name: str, valid: bool) -> list[str]:
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid "
        "JOIN pg_index i ON i.indexrelid = h.inhrelid WHERE h.inhparent = %s::regclass AND i.indisvalid = %s",
        (name, valid),
    )
    return [part for (part,) in rows]


def _is_valid(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
    ).fetchone()
    return bool(row and row[0])


def _attach_month(connection: Connection, month: Month) -> None:
    """The month's partitions, made or attached again."""
    for parent in PARTITIONED:
        partition = month.postgres_partition(parent)
        detached = connection.execute(
            "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND NOT relispartition", (partition,)
        ).fetchone()
        if detached is not None:
            # Made anew when it is attached.
            for trigger in triggers_of(partition):
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger.name} ON {partition}")
    connection.execute("SELECT create_monthly_partition(%s)", (month.start.date(),))
