"""For revisions that change a table that each generation has of its own (`generation_tables.TABLES`).

Revisions are never edited, so what this does for one must not change either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import generation_tables
from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Connection


def in_each_generation(connection: Connection, *statements: str) -> None:
    """Run statements for the live generation's tables, then for those of every other one, under the same plain names.

    The session finds a generation's tables first; what all generations share it finds where it always is.
    """
    path = value(connection, "SELECT current_setting('search_path')")
    for schema in (None, *generation_tables.other_schemas(connection)):
        if schema is not None:
            generation_tables.look_in(connection, schema, path)
        for statement in statements:
            connection.execute(statement)
    connection.execute("SELECT set_config('search_path', %s, true)", (path,))
