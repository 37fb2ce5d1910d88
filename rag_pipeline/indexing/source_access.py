"""What sources ask for, from `sources.yaml` into PostgreSQL.

The file is read anew each time: a scan can have begun, or a code location can have been loaded, before somebody
restricted a source, and must not make it public again. An entry with a mistake changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.sources.config import read_sources
from rag_pipeline.stores.postgres import sources

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.database import Connection


def store_access(connection: Connection, pipeline: Pipeline) -> int:
    """Store what the sources in the file ask for now; return how many have changed."""
    listed = read_sources(pipeline.settings.sources).sources
    return sources.set_access(connection, [(source.type, source.name, source.access) for source in listed])
