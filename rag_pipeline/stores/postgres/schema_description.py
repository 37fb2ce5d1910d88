"""Indexes, constraints, triggers, functions and text search configurations, as PostgreSQL describes them.

The schema in use and the schema that the migrations make are described by the same queries, so both compare as text.
PostgreSQL writes some conditions otherwise once they have been created from its own words, by a repair or by `pg_dump`
(`IN` on a `varchar` is one): the expected schema knows those spellings too.
Everything is found by the search path of the connection; names of schemas are left out of definitions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg.rows import class_row, dict_row

if TYPE_CHECKING:
    from collections.abc import Collection

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class Index:
    """An index of a table that is not a partition."""

    name: str
    table: str
    unique: bool
    definition: str
    """From the method on: method, columns, condition."""
    of_constraint: bool
    valid: bool
    spellings: frozenset[str] = field(default=frozenset(), compare=False)
    """Other definitions that mean the same, in the expected schema."""

    def means(self, other: Index) -> bool:
        """Whether an index that was found is this one."""
        return self.unique == other.unique and other.definition in {self.definition, *self.spellings}

    def create(self, name: str, on: str, concurrently: bool = False) -> str:
        """Return the statement that creates this index under a name on a table; `on` can begin with `ONLY`."""
        return (
            f"CREATE {'UNIQUE ' if self.unique else ''}INDEX {'CONCURRENTLY ' if concurrently else ''}"
            f"{name} ON {on} USING {self.definition}"
        )

    def recreate(self) -> str:
        """Return the statements that drop and create this index while all wait."""
        return f"DROP INDEX {self.name}; {self.create(self.name, self.table)}"


@dataclass(frozen=True)
class Constraint:
    """A key, foreign key or check of a table that is not a partition."""

    name: str
    table: str
    definition: str
    spellings: frozenset[str] = field(default=frozenset(), compare=False)
    """Other definitions that mean the same, in the expected schema."""

    @property
    def is_check(self) -> bool:
        """Whether it is neither a key nor a foreign key."""
        return self.definition.startswith("CHECK ")

    def means(self, other: Constraint) -> bool:
        """Whether a constraint that was found is this one."""
        return other.definition in {self.definition, *self.spellings}

    def create(self) -> str:
        """Return the statement that creates this constraint."""
        return f"ALTER TABLE {self.table} ADD CONSTRAINT {self.name} {self.definition}"

    def recreate(self) -> str:
        """Return the statement that drops and creates this constraint."""
        return (
            f"ALTER TABLE {self.table} DROP CONSTRAINT {self.name}, ADD CONSTRAINT {self.name} {self.definition}"
        )


@dataclass(frozen=True)
class Trigger:
    """A trigger of a table or a partition: statement triggers are not inherited."""

    name: str
    table: str
    event: str
    """The definition between its own name and the table's: `AFTER DELETE`."""
    action: str
    """The definition after the table's name."""
    enabled: bool

    def create(self, table: str) -> str:
        """Return the statement that creates or replaces this trigger on a table."""
        return f"CREATE OR REPLACE TRIGGER {self.name} {self.event} ON {table} {self.action}"


@dataclass(frozen=True)
class SchemaDescription:
    """What is in a schema, without the tables' columns and the partitions."""

    indexes: tuple[Index, ...]
    constraints: tuple[Constraint, ...]
    """Keys and checks first, then foreign keys: the order in which they can be created."""
    triggers: tuple[Trigger, ...]
    functions: dict[str, str]
    """Name → the statement that creates or replaces it."""
    text_search_configurations: dict[str, str]
    """Name → the statements that create it."""

    @property
    def tables(self) -> set[str]:
        """Every table that has an index or a constraint."""
        return {index.table for index in self.indexes} | {constraint.table for constraint in self.constraints}


def describe(connection: Connection) -> SchemaDescription:
    """Describe everything that the search path finds and that is not part of PostgreSQL."""
    return SchemaDescription(
        indexes=_indexes(connection),
        constraints=_constraints(connection),
        triggers=triggers(connection),
        functions=_functions(connection),
        text_search_configurations=_text_search_configurations(connection),
    )


def triggers(connection: Connection, partitions: Collection[str] | None = None) -> tuple[Trigger, ...]:
    """Return the triggers of these partitions; None: of all tables that are not partitions."""
    found = connection.cursor(row_factory=class_row(Trigger)).execute(
        r"""
        SELECT g.tgname AS name, t.relname AS table, g.tgenabled IN ('O', 'A') AS enabled,
            regexp_replace(split_part(pg_get_triggerdef(g.oid), on_table, 1), '^CREATE TRIGGER \S+ ', '') AS event,
            split_part(pg_get_triggerdef(g.oid), on_table, 2) AS action
        FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid JOIN pg_namespace n ON n.oid = t.relnamespace
        CROSS JOIN LATERAL format(' ON %%I.%%I ', n.nspname, t.relname) AS on_table
        WHERE NOT g.tgisinternal AND pg_table_is_visible(t.oid) AND n.nspname <> 'pg_catalog'
            AND CASE WHEN %(partitions)s::text[] IS NULL THEN NOT t.relispartition
                ELSE t.relname = ANY(%(partitions)s) END
        ORDER BY t.relname, g.tgname
        """,
        {"partitions": None if partitions is None else list(partitions)},
    )
    return tuple(found)


def _indexes(connection: Connection) -> tuple[Index, ...]:
    found = connection.cursor(row_factory=class_row(Index)).execute(
        """
        SELECT c.relname AS name, t.relname AS table, i.indisunique AS unique,
            split_part(pg_get_indexdef(i.indexrelid), ' USING ', 2) AS definition,
            EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND conrelid = i.indrelid) AS of_constraint,
            i.indisvalid AND i.indisready AS valid
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
        WHERE pg_table_is_visible(t.oid) AND NOT t.relispartition AND t.relnamespace <> 'pg_catalog'::regnamespace
        ORDER BY t.relname, c.relname
        """
    )
    return tuple(found)


def _constraints(connection: Connection) -> tuple[Constraint, ...]:
    # A foreign key to or from a partitioned table has a copy for each partition, with a parent.
    found = connection.cursor(row_factory=class_row(Constraint)).execute(
        """
        SELECT c.conname AS name, t.relname AS table, pg_get_constraintdef(c.oid) AS definition
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE c.contype IN ('p', 'u', 'x', 'c', 'f') AND c.conparentid = 0
            AND pg_table_is_visible(t.oid) AND NOT t.relispartition AND t.relnamespace <> 'pg_catalog'::regnamespace
        ORDER BY c.contype = 'f', t.relname, c.conname
        """
    )
    return tuple(found)


def _functions(connection: Connection) -> dict[str, str]:
    found = connection.cursor(row_factory=dict_row).execute(
        r"""
        SELECT p.proname AS name,
            regexp_replace(pg_get_functiondef(p.oid), '^(CREATE OR REPLACE FUNCTION )[^(]+\.', '\1') AS definition
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.prokind = 'f' AND l.lanname IN ('plpgsql', 'sql')
            AND pg_function_is_visible(p.oid) AND p.pronamespace <> 'pg_catalog'::regnamespace
        ORDER BY p.proname
        """
    )
    return {row["name"]: row["definition"] for row in found}


def _text_search_configurations(connection: Connection) -> dict[str, str]:
    found = connection.cursor(row_factory=dict_row).execute(
        """
        SELECT c.cfgname AS name,
            format('CREATE TEXT SEARCH CONFIGURATION %I (PARSER = %I.%I)', c.cfgname, n.nspname, p.prsname)
                || coalesce(mappings.statements, '') AS definition
        FROM pg_ts_config c JOIN pg_ts_parser p ON p.oid = c.cfgparser JOIN pg_namespace n ON n.oid = p.prsnamespace
        LEFT JOIN LATERAL (
            SELECT string_agg(
                format('; ALTER TEXT SEARCH CONFIGURATION %I ADD MAPPING FOR %I WITH %s', c.cfgname, alias, names), ''
                ORDER BY tokid
            ) AS statements
            FROM (
                SELECT maptokentype AS tokid, string_agg(mapdict::regdictionary::text, ', ' ORDER BY mapseqno) AS names
                FROM pg_ts_config_map WHERE mapcfg = c.oid GROUP BY maptokentype
            ) AS dictionaries JOIN ts_token_type(c.cfgparser) USING (tokid)
        ) AS mappings ON true
        WHERE pg_ts_config_is_visible(c.oid) AND c.cfgnamespace <> 'pg_catalog'::regnamespace
        ORDER BY c.cfgname
        """
    )
    return {row["name"]: row["definition"] for row in found}
