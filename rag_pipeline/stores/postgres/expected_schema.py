"""A description of the schema that the migrations create. The schema in use is compared with it and repaired from it.

The migrations run in a scratch schema of the same database, in a transaction that is rolled back. They lock only what
they create, so several processes can do this at once, beside readers and writers.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import PrivilegeError
from rag_pipeline.stores.postgres.migrations import ALEMBIC
from rag_pipeline.stores.postgres.schema_description import describe

if TYPE_CHECKING:
    from sqlalchemy import Connection as SqlAlchemyConnection

    from rag_pipeline.stores.postgres.database import Connection, Database
    from rag_pipeline.stores.postgres.schema_description import Constraint, Index, SchemaDescription

_by_server_version: dict[tuple[int, bool], SchemaDescription] = {}


def expected_schema(database: Database, *, spellings: bool = True) -> SchemaDescription:
    """Return the description of the schema that this program's migrations make on this version of PostgreSQL.

    Made once per process; finding the other `spellings` of conditions takes longer than all else, and only what differs
    from the first needs them. Raises a `PrivilegeError` if the user has no CREATE privilege on the database.
    """
    with database.connection() as connection:
        key = connection.info.server_version, spellings
        # Within the block: a lost connection is reported like any other.
        if key not in _by_server_version:
            _by_server_version[key] = _describe_scratch_schema(database, spellings)
    return _by_server_version[key]


def _describe_scratch_schema(database: Database, spellings: bool = True) -> SchemaDescription:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    name = f"scratch_{secrets.token_hex(8)}"
    engine = create_engine("postgresql+psycopg://", creator=database.connect, poolclass=NullPool)
    with engine.connect() as connection:  # Rolled back at the end: nothing commits.
        session: Connection = connection.connection.driver_connection  # type: ignore[assignment]
        try:
            session.execute(f"CREATE SCHEMA {name}")
        except psycopg.errors.InsufficientPrivilege:
            user, target = session.info.user, session.info.dbname
            raise PrivilegeError(
                f"PostgreSQL user {user} needs the CREATE privilege on database {target} to check the schema: "
                f'GRANT CREATE ON DATABASE "{target}" TO "{user}"'
            ) from None
        session.execute(f"SET LOCAL search_path TO {name}")
        _run_migrations(connection)
        described = describe(session)
        return _with_spellings(session, described) if spellings else described


def _with_spellings(session: Connection, expected: SchemaDescription) -> SchemaDescription:
    """Create checks and indexes from their own definitions until PostgreSQL no longer changes any, and keep each."""
    spellings: dict[tuple[str, str], set[str]] = defaultdict(set)
    described = expected
    while True:
        created: list[Constraint | Index] = [it for it in described.constraints if it.is_check]
        created += [it for it in described.indexes if not it.of_constraint]
        changed = [it for it in created if it.definition not in spellings[it.table, it.name]]
        if not changed:
            break
        for it in changed:
            spellings[it.table, it.name].add(it.definition)
            session.execute(it.recreate())
        described = describe(session)
    return replace(
        expected,
        constraints=tuple(
            replace(it, spellings=frozenset(spellings[it.table, it.name])) for it in expected.constraints
        ),
        indexes=tuple(replace(it, spellings=frozenset(spellings[it.table, it.name])) for it in expected.indexes),
    )


def _run_migrations(connection: SqlAlchemyConnection) -> None:
    """Run every revision in order, without Alembic's table of versions."""
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "rag_pipeline.stores.postgres:migrations")
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    with ALEMBIC, Operations.context(MigrationContext.configure(connection)):
        for revision in reversed(revisions):
            revision.module.upgrade()
