"""What an asker may read besides searching: documents, their chunks, the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.accounts.permissions import visible_sources
from rag_pipeline.stores.postgres import document_reading, sources

if TYPE_CHECKING:
    from rag_pipeline.accounts.api_keys import Asker
    from rag_pipeline.stores.postgres.database import Connection, Database

MOST_CHUNKS = 200


class Reading:
    """Reads what the asker may see; what is hidden looks like what does not exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sources(self, asker: Asker) -> list[dict[str, Any]]:
        """Return the sources, with how many documents each has."""
        with self._database.connection() as connection:
            return document_reading.sources_to_see(connection, _visible(connection, asker))

    def document(self, asker: Asker, identity: UUID) -> dict[str, Any] | None:
        """Return a document without its text; None if there is none to see."""
        with self._database.connection() as connection:
            return _shared(document_reading.document(connection, identity, _visible(connection, asker)))

    def with_chunks(
        self, asker: Asker, identity: UUID, first: int, limit: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Return a document and its chunks from a position on, in order; None if there is none to see."""
        with self._database.connection() as connection:
            visible = _visible(connection, asker)
            document = _shared(document_reading.document(connection, identity, visible))
            if document is None:
                return None
            return document, document_reading.chunks(connection, identity, visible, first, limit)


def shared_url(url: str | None) -> str | None:
    """Return a document's address for those who search through the service; None for a path of the server's own disk."""
    return None if url is None or url.lower().startswith("file:") else url


def _shared(document: dict[str, Any] | None) -> dict[str, Any] | None:
    return document and {**document, "source_url": shared_url(document["source_url"])}


def _visible(connection: Connection, asker: Asker) -> list[UUID] | None:
    return visible_sources(asker.permissions, sources.access(connection))
