"""What sources ask for, from `sources.yaml` into PostgreSQL.

The file is read anew each time: a scan can have begun, or a code location can have been loaded, before somebody
restricted a source, and must not make it public again. An entry with a mistake changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import sources

if TYPE_CHECKING:
    from rag_pipeline.sources.config import SourcesFile
    from rag_pipeline.stores.postgres.database import Connection


def store_access(connection: Connection, file: SourcesFile) -> dict[str, list[str]]:
    """Store what the sources in a file that was just read ask for; return the permissions of those that have changed."""
    return sources.set_access(connection, [(source.type, source.name, source.access) for source in file.sources])
