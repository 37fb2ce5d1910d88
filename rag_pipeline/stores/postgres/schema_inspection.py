"""Compares the schema in use with the schema that the migrations make: indexes, constraints, triggers, partitions.

Columns are not compared: the migrations alone change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psycopg.rows import dict_row, scalar_row

from rag_pipeline.stores.postgres.expected_schema import expected_schema
from rag_pipeline.stores.postgres.month_bounds import in_month, month_bounds
from rag_pipeline.stores.postgres.schema_description import SchemaDescription, Trigger, describe, triggers
from rag_pipeline.stores.postgres.statuses import ITEM_KEPT, one_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection, Database

PARTITIONED = ("documents", "document_chunks")

SchemaProblemKind = Literal[
    "text search configuration missing",
    "function missing",
    "function differs",
    "partition missing",
    "constraint missing",
    "constraint differs",
    "trigger missing",
    "trigger differs",
    "trigger disabled",
    "index missing",
    "index differs",
    "index invalid",
    "index not attached",
    "leftover index",
]
_SPELLED = {"constraint differs", "index differs"}
_CHUNK_TABLES = {"document_chunks", "vector_deletions", "term_statistics"}


@dataclass(frozen=True)
class SchemaProblem:
    """A difference between the schema in use and the migrations' schema."""

    what: SchemaProblemKind
    table: str
    """The table or partition; empty for a function or a text search configuration."""
    name: str
    found: str = ""
    """The definition in use, if one differs."""

    @property
    def where(self) -> str:
        """The asset that reports it."""
        if any(self.table == name or self.table.startswith(f"{name}_") for name in _CHUNK_TABLES):
            return "document_chunks"
        return "document_chunks" if self.name == "cleanup_document_vectors" else "documents"

    def __str__(self) -> str:
        on = f" on {self.table}" if self.table else ""
        return f"{self.what}: {self.name}{on}" + (f" is {self.found}" if self.found else "")


def schema_problems(database: Database) -> list[SchemaProblem]:
    """Return what differs outside the monthly partitions, in an order in which it can be repaired."""
    with database.connection() as connection:
        found = describe(connection)
    problems = _problems(expected_schema(database, spellings=False), found)
    if any(problem.what in _SPELLED for problem in problems):
        problems = _problems(expected_schema(database), found)
    return problems


def _problems(expected: SchemaDescription, found: SchemaDescription) -> list[SchemaProblem]:
    return [
        *_text_search_configuration_problems(expected, found),
        *_function_problems(expected, found),
        *_constraint_problems(expected, found),
        *_trigger_problems({table: triggers_of(expected, table) for table in expected.tables}, found.triggers),
        *_index_problems(expected, found),
    ]


def partition_problems(database: Database, month: Month) -> list[SchemaProblem]:
    """Return what differs in a month's partitions. A month without items needs no partitions."""
    expected = expected_schema(database, spellings=False)
    names = [month.postgres_partition(table) for table in PARTITIONED]
    with database.connection() as connection:
        attached = _attached_partitions(connection)
        present = [name for name in names if name in attached]
        missing = [name for name in names if name not in attached]
        if missing and not _has_items(connection, month):
            missing = []
        return [
            *(SchemaProblem("partition missing", name, str(month)) for name in missing),
            *_trigger_problems(
                {name: triggers_of(expected, name) for name in present}, triggers(connection, present)
            ),
            *_partition_index_problems(expected, connection, present),
        ]


def triggers_of(expected: SchemaDescription, table: str) -> list[Trigger]:
    """Return the triggers that a table or a partition must have."""
    parent = _parent_of(table)
    return [trigger for trigger in expected.triggers if trigger.table in (table, parent)]


def _parent_of(partition: str) -> str | None:
    """The partitioned table that a partition belongs to, by its name."""
    parent = partition.rsplit("_", 2)[0]
    return parent if parent in PARTITIONED else None


def _attached_partitions(connection: Connection) -> set[str]:
    return set(
        connection.cursor(row_factory=scalar_row).execute(
            "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
            "WHERE inhparent = ANY(%s::regclass[])",
            (list(PARTITIONED),),
        )
    )


def _has_items(connection: Connection, month: Month) -> bool:
    """Whether a source holds an item of this month."""
    found = connection.execute(
        f"SELECT FROM source_items WHERE state IN {one_of(*ITEM_KEPT)} AND {in_month('document_created_at')} LIMIT 1",
        month_bounds(month),
    ).fetchone()
    return found is not None


def _text_search_configuration_problems(
    expected: SchemaDescription, found: SchemaDescription
) -> Iterator[SchemaProblem]:
    for name in expected.text_search_configurations:
        if name not in found.text_search_configurations:
            yield SchemaProblem("text search configuration missing", "", name)


def _function_problems(expected: SchemaDescription, found: SchemaDescription) -> Iterator[SchemaProblem]:
    for name, definition in expected.functions.items():
        if name not in found.functions:
            yield SchemaProblem("function missing", "", name)
        elif found.functions[name] != definition:
            yield SchemaProblem("function differs", "", name)


def _constraint_problems(expected: SchemaDescription, found: SchemaDescription) -> Iterator[SchemaProblem]:
    by_name = {(constraint.table, constraint.name): constraint for constraint in found.constraints}
    for wanted in expected.constraints:
        constraint = by_name.get((wanted.table, wanted.name))
        if constraint is None:
            yield SchemaProblem("constraint missing", wanted.table, wanted.name)
        elif not wanted.means(constraint):
            yield SchemaProblem("constraint differs", wanted.table, wanted.name, constraint.definition)


def _trigger_problems(
    expected: Mapping[str, Sequence[Trigger]], found: Sequence[Trigger]
) -> Iterator[SchemaProblem]:
    """`expected` holds the triggers of each table or partition."""
    by_name = {(trigger.table, trigger.name): trigger for trigger in found}
    for table in sorted(expected):
        for wanted in expected[table]:
            trigger = by_name.get((table, wanted.name))
            if trigger is None:
                yield SchemaProblem("trigger missing", table, wanted.name)
            elif (trigger.event, trigger.action) != (wanted.event, wanted.action):
                yield SchemaProblem("trigger differs", table, wanted.name, f"{trigger.event} {trigger.action}")
            elif not trigger.enabled:
                yield SchemaProblem("trigger disabled", table, wanted.name)


def _index_problems(expected: SchemaDescription, found: SchemaDescription) -> Iterator[SchemaProblem]:
    """Compare the tables' own indexes; one of a partitioned table is valid once every partition has its part."""
    by_name = {(index.table, index.name): index for index in found.indexes}
    wanted_names = {(index.table, index.name) for index in expected.indexes}
    for wanted in expected.indexes:
        index = by_name.get((wanted.table, wanted.name))
        if index is None:
            if not wanted.of_constraint:  # Otherwise the constraint is what is missing.
                yield SchemaProblem("index missing", wanted.table, wanted.name)
        elif not wanted.means(index) and not wanted.of_constraint:
            yield SchemaProblem("index differs", wanted.table, wanted.name, index.definition)
        elif not index.valid:
            yield SchemaProblem("index invalid", wanted.table, wanted.name)
    for (table, name), index in by_name.items():
        if not index.valid and table in expected.tables and (table, name) not in wanted_names:
            yield SchemaProblem("leftover index", table, name)


def _partition_index_problems(
    expected: SchemaDescription, connection: Connection, partitions: list[str]
) -> list[SchemaProblem]:
    """Compare partitions: each needs a valid part of every index of its parent, keys included."""
    rows = (
        connection.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT p.relname AS partition, parent.relname AS parent, c.relname AS name,
                i.indisvalid AND i.indisready AS valid
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class p ON p.oid = i.indrelid
            LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid LEFT JOIN pg_class parent ON parent.oid = h.inhparent
            WHERE p.relname = ANY(%s) AND pg_table_is_visible(p.oid)
            """,
            (partitions,),
        )
        .fetchall()
    )
    attached = {(row["partition"], row["parent"]) for row in rows}
    invalid = [
        SchemaProblem("index invalid" if row["parent"] else "leftover index", row["partition"], row["name"])
        for row in rows
        if not row["valid"]
    ]
    return invalid + [
        SchemaProblem("index not attached", partition, index.name)
        for partition in partitions
        for index in expected.indexes
        if index.table == _parent_of(partition) and (partition, index.name) not in attached
    ]
