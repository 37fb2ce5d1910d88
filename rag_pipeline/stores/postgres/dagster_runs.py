"""Dagster's schema in our database, and its table of runs: only read, where importing Dagster is too slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Connection


def schema_beside(postgres_schema: str | None) -> str:
    """Return the schema of Dagster's tables, beside the one of ours that `RAG_POSTGRES_SCHEMA` names."""
    return f"{postgres_schema}_dagster" if postgres_schema else "dagster"


def any_running(connection: Connection, schema: str) -> bool:
    """Whether Dagster, with its tables in a schema, lists a run as begun and not ended."""
    if value(connection, "SELECT to_regclass(%s)", (f"{schema}.runs",)) is None:
        return False
    begun = "('NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING')"
    return bool(value(connection, f"SELECT EXISTS (SELECT FROM {schema}.runs WHERE status IN {begun})"))
