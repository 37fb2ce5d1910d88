"""What the schema declares: indexes, constraints, triggers, functions and text search configurations, by name.

Read from the migrations, so that nothing is written twice: from each string constant of each revision, in order.
A migration that drops or renames something that an older one made has to be known here too; a test that finds
nothing to complain of in a fresh database tells.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = re.MULTILINE | re.DOTALL
# All at the beginning of a line: what a function's body makes is indented.
_INDEX = re.compile(r"^CREATE (UNIQUE )?INDEX (\w+)\s+ON (\w+)\s+(.*?);", _FLAGS)
_TRIGGER = re.compile(r"^CREATE TRIGGER (\w+) (.*?) ON (\w+)\s+(.*?);", _FLAGS)
_FUNCTION = re.compile(r"^CREATE FUNCTION ((\w+)\(.*?^\$\$ LANGUAGE plpgsql);", _FLAGS)
_CONFIGURATION = re.compile(r"^(CREATE TEXT SEARCH CONFIGURATION (\w+) .*?);", _FLAGS)
_TABLE = re.compile(r"^CREATE TABLE (\w+) \((.*?)^\)[^;]*;", _FLAGS)
_COLUMN_KEY = re.compile(r"^(\w+) .*?\b(PRIMARY KEY|UNIQUE)\b", _FLAGS)
_COLUMN_REFERENCE = re.compile(r"^(\w+) .*?\b(REFERENCES .*)$", _FLAGS)


@dataclass(frozen=True)
class Index:
    """An index that is not a constraint's."""

    name: str
    table: str
    unique: bool
    definition: str
    """What follows the table's name: method, columns, condition."""

    def create(self, name: str, on: str, concurrently: bool = False) -> str:
        """The statement that makes this index under a name on a table, `ONLY` before it where it is so meant."""
        return (
            f"CREATE {'UNIQUE ' if self.unique else ''}INDEX {'CONCURRENTLY ' if concurrently else ''}"
            f"{name} ON {on} {self.definition}"
        )


@dataclass(frozen=True)
class Constraint:
    """A key or another constraint of a table."""

    name: str
    table: str
    definition: str


@dataclass(frozen=True)
class Trigger:
    """A trigger of a table, and of each of its partitions: those for statements are not inherited."""

    name: str
    table: str
    event: str
    definition: str

    def create(self, table: str) -> str:
        """The statement that makes this trigger on a table."""
        return f"CREATE TRIGGER {self.name} {self.event} ON {table} {self.definition}"


@dataclass(frozen=True)
class Declared:
    """All of it."""

    indexes: tuple[Index, ...]
    constraints: tuple[Constraint, ...]
    triggers: tuple[Trigger, ...]
    functions: dict[str, str]
    """Name → the statement that makes or replaces it."""
    configurations: dict[str, str]
    """Name of a text search configuration → the statement that makes it."""

    @property
    def tables(self) -> list[str]:
        """Every table that has any of these."""
        return sorted({index.table for index in self.indexes} | {key.table for key in self.constraints})


@cache
def declared() -> Declared:
    """What the migrations of this program declare."""
    sql = "\n".join(_statements())
    return Declared(
        indexes=tuple(
            Index(name, table, bool(unique), " ".join(rest.split()))
            for unique, name, table, rest in _INDEX.findall(sql)
        ),
        constraints=tuple(
            constraint for table, body in _TABLE.findall(sql) for constraint in _constraints(table, body)
        ),
        triggers=tuple(
            Trigger(name, table, event, " ".join(rest.split()))
            for name, event, table, rest in _TRIGGER.findall(sql)
        ),
        functions={name: f"CREATE OR REPLACE FUNCTION {text}" for text, name in _FUNCTION.findall(sql)},
        configurations={name: text for text, name in _CONFIGURATION.findall(sql)},
    )


def _statements() -> Iterator[str]:
    revisions = files("rag_pipeline.stores.postgres.migrations").joinpath("versions")
    for path in sorted((p for p in revisions.iterdir() if p.name.endswith(".py")), key=lambda p: p.name):
        # Parsed, not imported: a migration imports Alembic.
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                value = node.value.value
                if isinstance(value, str):
                    yield value


def _constraints(table: str, body: str) -> Iterator[Constraint]:
    """The constraints of a table, those without a name under the one that PostgreSQL gives them."""
    for item in _items(body):
        if item.startswith("CONSTRAINT "):
            _, name, definition = item.split(None, 2)
            yield Constraint(name, table, definition)
        elif item.startswith("PRIMARY KEY"):
            yield Constraint(f"{table}_pkey", table, item)
        else:
            if match := _COLUMN_KEY.match(item):
                suffix = "pkey" if match[2] == "PRIMARY KEY" else f"{match[1]}_key"
                yield Constraint(f"{table}_{suffix}", table, f"{match[2]} ({match[1]})")
            if match := _COLUMN_REFERENCE.match(item):
                yield Constraint(f"{table}_{match[1]}_fkey", table, f"FOREIGN KEY ({match[1]}) {match[2]}")


def _items(body: str) -> Iterator[str]:
    """The columns and constraints of a table: its body, split at the commas outside of brackets."""
    depth, item = 0, ""
    for character in re.sub(r"--[^\n]*", "", body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield " ".join(item.split())
            item = ""
        else:
            item += character
    if item.strip():
        yield " ".join(item.split())
