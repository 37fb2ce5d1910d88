"""Dagster's table of runs, if its storage is in our database: only read, where importing Dagster is too slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Connection

SCHEMA = "dagster"


def any_running(connection: Connection) -> bool:
    """Whether Dagster lists a run as begun and not ended."""
    if value(connection, "SELECT to_regclass(%s)", (f"{SCHEMA}.runs",)) is None:
        return False
    begun = "('NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING')"
    return bool(value(connection, f"SELECT EXISTS (SELECT FROM {SCHEMA}.runs WHERE status IN {begun})"))
