"""The tables of a generation: a schema of its own for one that is not live, and the exchange when one goes live.

Those of the live generation are where the migrations created them, so that every session, of a person too, finds them
under their plain names. Another generation has tables of the same names in a schema of its own, and sessions of
`generation_database` look there first. What all generations share (items, sources, the outbox, users) exists once.

When a generation goes live, the tables change places: PostgreSQL writes names of schemas anew and touches no row.
"""

# Names of schemas and tables come from the catalog; they cannot be parameters.

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from rag_pipeline.errors import PrivilegeError
from rag_pipeline.stores.postgres.database import named, value, values

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection
    from rag_pipeline.stores.postgres.generations import GenerationRow
    from rag_pipeline.stores.postgres.schema_description import SchemaDescription

TABLES = ("documents", "document_chunks", "term_statistics", "built_kinds", "index_epochs")
"""What each generation has of its own; `documents` because each knows for itself how far a document is indexed."""
_PARTITION_KEYS = {"documents": "created_at", "document_chunks": "document_created_at"}
_LOCK_TIMEOUT = "500ms"
"""Shorter than `deadlock_timeout` (1 s): if this and a search wait for each other, this one gives up first."""


def live_schema(connection: Connection) -> str:
    """Return the schema of the live generation's tables. Call it in a session without a generation's schema."""
    return value(
        connection,
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = 'source_items'::regclass",
    )


def schema_of(live: str, generation: int) -> str:
    """Return the schema of a generation that is not live; deployments in one database have schemas of their own."""
    return f"{live}_generation_{generation}"


def look_in(connection: Connection, schema: str, path: str) -> None:
    """Have the rest of the transaction find the tables of a schema first, before those of a search path."""
    connection.execute("SELECT set_config('search_path', quote_ident(%s) || ', ' || %s, true)", (schema, path))


def other_schemas(connection: Connection) -> list[str]:
    """Return the schemas of all generations that are not live. Call it in a session without a generation's schema."""
    return values(
        connection,
        """
        SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relname = 'documents' AND c.relkind = 'p' AND n.nspname ~ '_generation_[0-9]+$'
            AND regexp_replace(n.nspname, '_generation_[0-9]+$', '') = %s
        ORDER BY c.oid
        """,
        (live_schema(connection),),
    )


def create(connection: Connection, generation: GenerationRow, expected: SchemaDescription) -> str:
    """Create the tables of a new generation as `expected`, empty and without partitions; return their schema.

    Raises `PrivilegeError` if the user may not create a schema.
    """
    live = live_schema(connection)
    schema = schema_of(live, generation.id)
    try:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    except psycopg.errors.InsufficientPrivilege:
        user, target = connection.info.user, connection.info.dbname
        raise PrivilegeError(
            f"PostgreSQL user {user} needs the CREATE privilege on database {target} to build a generation: "
            f'GRANT CREATE ON DATABASE "{target}" TO "{user}"'
        ) from None
    path = value(connection, "SELECT current_setting('search_path')")
    look_in(connection, schema, path)
    for table in TABLES:
        key = _PARTITION_KEYS.get(table)
        partitioned = sql.SQL("PARTITION BY RANGE ({})").format(sql.Identifier(key)) if key else sql.SQL("")
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING COMMENTS) {}").format(
                sql.Identifier(schema, table), sql.Identifier(live, table), partitioned
            )
        )
    _grant_as(connection, live, schema)
    for constraint in expected.constraints:
        if constraint.table in TABLES:
            connection.execute(constraint.create())
    for index in expected.indexes:
        if index.table in TABLES and not index.of_constraint:
            connection.execute(index.create(index.name, index.table))
    for trigger in expected.triggers:
        if trigger.table in TABLES:
            connection.execute(trigger.create(trigger.table))
    connection.execute("SELECT set_config('search_path', %s, true)", (path,))
    return schema


def _grant_as(connection: Connection, live: str, schema: str) -> None:
    """Let others read and write the new tables as they may the live ones, whose place those will take."""
    granted = named(
        connection,
        """
        SELECT c.relname AS table, a.privilege_type AS privilege, r.rolname AS role
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE n.nspname = %s AND c.relname = ANY(%s) AND a.grantee <> c.relowner
        """,
        (live, list(TABLES)),
    )
    for one in granted:
        connection.execute(
            sql.SQL("GRANT {} ON {} TO {}").format(
                sql.SQL(one.privilege),
                sql.Identifier(schema, one.table),
                sql.Identifier(one.role) if one.role else sql.SQL("PUBLIC"),
            )
        )


def exchange(connection: Connection, live: GenerationRow, new: GenerationRow) -> None:
    """Give the plain names to a generation's tables, and those of the live one a schema of their own.

    Raises `psycopg.errors.LockNotAvailable` if queries hold the tables: retry.
    """
    plain = live_schema(connection)
    aside, waiting = schema_of(plain, live.id), schema_of(plain, new.id)
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    # All at once and in one order, so that a search waits for the whole exchange or for nothing.
    for schema in (plain, waiting):
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(
                sql.SQL(", ").join(sql.Identifier(schema, table) for table in TABLES)
            )
        )
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(aside)))
    _move(connection, plain, aside)
    _move(connection, waiting, plain)
    connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(waiting)))


def drop_references(connection: Connection, schema: str) -> None:
    """Drop the foreign keys of a generation's tables: to drop a partition, PostgreSQL would look for rows that refer to it.

    Raises `psycopg.errors.LockNotAvailable` as those below do if queries hold the tables: retry.
    """
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    keys = named(
        connection,
        """
        SELECT t.relname AS table, c.conname AS name FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE t.relnamespace = to_regnamespace(quote_ident(%s)) AND c.contype = 'f' AND c.conparentid = 0
            AND NOT t.relispartition ORDER BY 1, 2
        """,
        (schema,),
    )
    for key in keys:
        connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                sql.Identifier(schema, key.table), sql.Identifier(key.name)
            )
        )


def drop_month(connection: Connection, schema: str, month: Month) -> None:
    """Drop a month's partitions in a generation's schema, with their rows; `drop_references` came before."""
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    for table in ("document_chunks", "documents"):
        partition = sql.Identifier(schema, month.postgres_partition(table))
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(partition))


def drop(connection: Connection, schema: str) -> None:
    """Drop what is left of a generation's schema."""
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def size(connection: Connection, schema: str) -> int:
    """Return the bytes that a generation's tables take, indexes included."""
    return value(
        connection,
        """
        SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
        WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relkind = 'r'
            AND c.relname ~ '^(documents|document_chunks)_[0-9]{4}_[0-9]{2}$'
        """,
        (schema,),
    )


def _move(connection: Connection, away_from: str, to: str) -> None:
    for table in (*_partitions(connection, away_from), *TABLES):
        connection.execute(
            sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(away_from, table), sql.Identifier(to))
        )


def _partitions(connection: Connection, schema: str) -> list[str]:
    return values(
        connection,
        """
        SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_class p ON p.oid = h.inhparent
        WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relkind = 'r'
            AND p.relname = ANY(%(parents)s) ORDER BY 1
        """,
        {"schema": schema, "parents": list(_PARTITION_KEYS)},
    )
