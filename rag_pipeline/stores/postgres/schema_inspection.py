"""Whether indexes, keys, triggers and partitions are as the schema declares them.

Definitions are compared as PostgreSQL writes them: each declared index is made on an empty copy of its table, in a
transaction that is rolled back, and described beside the real one.
"""

# Names of tables and indexes are those of the schema; they cannot be parameters.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rag_pipeline.stores.postgres.expected_schema import Constraint, Index, Trigger, declared

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection

PARTITIONED = ("documents", "document_chunks")

What = Literal[
    "configuration missing",
    "function missing",
    "partition missing",
    "constraint missing",
    "trigger missing",
    "trigger disabled",
    "index missing",
    "index",
    "index invalid",
    "index not attached",
    "index left behind",
]
_described: dict[int, dict[str, str]] = {}
_OF_CHUNKS = {"document_chunks", "vector_deletions", "term_statistics"}


@dataclass(frozen=True)
class SchemaProblem:
    """Something of the schema that is not as declared."""

    what: What
    table: str
    """The table or partition that it is about; empty for what belongs to none."""
    name: str
    found: str = ""
    """What is there instead, where there is something."""

    @property
    def where(self) -> str:
        """The asset that it belongs to."""
        if any(self.table == name or self.table.startswith(f"{name}_") for name in _OF_CHUNKS):
            return "document_chunks"
        return "document_chunks" if self.name == "cleanup_document_vectors" else "documents"

    def __str__(self) -> str:
        on = f" on {self.table}" if self.table else ""
        return f"{self.what}: {self.name}{on}" + (f" is {self.found}" if self.found else "")


def schema_problems(connection: Connection) -> list[SchemaProblem]:
    """What is wrong with the schema but for its monthly partitions."""
    schema = declared()
    problems = [
        *_missing("configuration missing", list(schema.configurations), _configurations(connection)),
        *_missing("function missing", list(schema.functions), _functions(connection)),
    ]
    constraints = _constraints(connection)
    problems += [
        SchemaProblem("constraint missing", constraint.table, constraint.name)
        for constraint in schema.constraints
        if (constraint.table, constraint.name) not in constraints
    ]
    problems += _trigger_problems(connection, {trigger.table for trigger in schema.triggers})
    return problems + _index_problems(connection, schema.indexes)


def partition_problems(connection: Connection, month: Month) -> list[SchemaProblem]:
    """What is wrong with a month's partitions. A month without items needs none."""
    partitions = {table: month.postgres_partition(table) for table in PARTITIONED}
    there = {
        name
        for (name,) in connection.execute(
            "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = ANY(%s::regclass[])",
            (list(PARTITIONED),),
        )
    }
    missing = [name for name in partitions.values() if name not in there]
    if missing:
        needed = connection.execute(
            "SELECT FROM source_items WHERE state IN ('pending', 'ingested', 'failed') "
            "AND document_created_at >= %s AND document_created_at < %s LIMIT 1",
            (month.start, month.end),
        ).fetchone()
        if needed is None:
            missing = []
    problems = [SchemaProblem("partition missing", name, str(month)) for name in missing]
    present = [name for name in partitions.values() if name in there]
    return problems + _trigger_problems(connection, set(present)) + _attached_problems(connection, present)


def _missing(what: What, names: list[str], found: set[str]) -> list[SchemaProblem]:
    return [SchemaProblem(what, "", name) for name in names if name not in found]


def _configurations(connection: Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT cfgname FROM pg_ts_config")}


def _functions(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT proname FROM pg_proc WHERE pg_function_is_visible(oid)")
    return {name for (name,) in rows}


def _constraints(connection: Connection) -> set[tuple[str, str]]:
    rows = connection.execute(
        "SELECT t.relname, c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid "
        "WHERE pg_table_is_visible(t.oid)"
    )
    return {(table, name) for table, name in rows}


def triggers_of(table: str) -> list[Trigger]:
    """The triggers that a table or partition has to have."""
    return [
        trigger
        for trigger in declared().triggers
        if table == trigger.table or (trigger.table in PARTITIONED and _partition_of(table) == trigger.table)
    ]


def _partition_of(name: str) -> str:
    parent = name.rsplit("_", 2)[0]
    return parent if parent in PARTITIONED else ""


def _trigger_problems(connection: Connection, tables: set[str]) -> list[SchemaProblem]:
    enabled = {
        (table, name): state in "OA"
        for table, name, state in connection.execute(
            """
            SELECT t.relname, g.tgname, g.tgenabled FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid
            WHERE NOT g.tgisinternal AND pg_table_is_visible(t.oid) AND t.relname = ANY(%s)
            """,
            (sorted(tables),),
        )
    }
    problems = []
    for table in sorted(tables):
        for trigger in triggers_of(table):
            state = enabled.get((table, trigger.name))
            if state is None:
                problems.append(SchemaProblem("trigger missing", table, trigger.name))
            elif not state:
                problems.append(SchemaProblem("trigger disabled", table, trigger.name))
    return problems


def _index_problems(connection: Connection, indexes: tuple[Index, ...]) -> list[SchemaProblem]:
    """Of the tables themselves; a partitioned table's index is invalid until every partition has its part."""
    real = {
        (table, name): (valid, unique, tail)
        for table, name, valid, unique, tail in connection.execute(
            """
            SELECT t.relname, c.relname, i.indisvalid AND i.indisready, i.indisunique,
                split_part(pg_get_indexdef(i.indexrelid), ' USING ', 2)
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
            WHERE pg_table_is_visible(t.oid) AND t.relname = ANY(%s)
            """,
            (declared().tables,),
        )
    }
    specified = _specified(connection, indexes)
    constraints = {(constraint.table, constraint.name) for constraint in declared().constraints}
    problems = []
    for index in indexes:
        found = real.get((index.table, index.name))
        if found is None:
            problems.append(SchemaProblem("index missing", index.table, index.name))
        elif found[1:] != (index.unique, specified[index.name]):
            problems.append(SchemaProblem("index", index.table, index.name, found[2]))
        elif not found[0]:
            problems.append(SchemaProblem("index invalid", index.table, index.name))
    ours = {(index.table, index.name) for index in indexes}
    for (table, name), (valid, *_) in real.items():
        if not valid and (table, name) not in ours:
            what: What = "index invalid" if (table, name) in constraints else "index left behind"
            problems.append(SchemaProblem(what, table, name))
    return problems


def _specified(connection: Connection, indexes: tuple[Index, ...]) -> dict[str, str]:
    """How PostgreSQL describes each declared index, from the method on; asked once a process and version of it."""
    version = connection.info.server_version
    if version in _described:
        return _described[version]
    specified: dict[str, str] = {}
    with connection.transaction(force_rollback=True):
        for table in sorted({index.table for index in indexes}):
            connection.execute(f"CREATE TEMPORARY TABLE declared_{table} (LIKE {table})")
        for index in indexes:
            connection.execute(index.create(index.name, f"pg_temp.declared_{index.table}"))
            row = connection.execute(
                "SELECT split_part(pg_get_indexdef(('pg_temp.' || %s)::regclass), ' USING ', 2)", (index.name,)
            ).fetchone()
            assert row is not None
            specified[index.name] = row[0]
    _described[version] = specified
    return specified


def _attached_problems(connection: Connection, partitions: list[str]) -> list[SchemaProblem]:
    """Of partitions: each index of the parent, its keys' among them, has a valid part on each of them."""
    rows = connection.execute(
        """
        SELECT p.relname, coalesce(parent.relname, ''), c.relname, i.indisvalid AND i.indisready
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class p ON p.oid = i.indrelid
        LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid LEFT JOIN pg_class parent ON parent.oid = h.inhparent
        WHERE p.relname = ANY(%s) AND pg_table_is_visible(p.oid)
        """,
        (partitions,),
    ).fetchall()
    attached = {(partition, parent) for partition, parent, _, _ in rows}
    problems = [
        SchemaProblem("index invalid" if parent else "index left behind", partition, name)
        for partition, parent, name, valid in rows
        if not valid
    ]
    wanted: list[Index | Constraint] = [
        *declared().indexes,
        *(key for key in declared().constraints if key.definition.startswith(("PRIMARY KEY", "UNIQUE"))),
    ]
    return problems + [
        SchemaProblem("index not attached", partition, thing.name)
        for partition in partitions
        for thing in wanted
        if thing.table == _partition_of(partition) and (partition, thing.name) not in attached
    ]
