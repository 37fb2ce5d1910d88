"""Documents and their live chunks as readers see them: of the sources that they may see, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.documents.headings import section_path
from rag_pipeline.stores.postgres.database import dicts
from rag_pipeline.stores.postgres.document_chunks import CONTEXT
from rag_pipeline.stores.postgres.sources import IS_LEFT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection

_VISIBLE = """
    FROM source_items i JOIN sources s ON s.id = i.source
    WHERE i.document_id = %(document)s AND (%(sources)s::uuid[] IS NULL OR i.source = ANY(%(sources)s::uuid[]))"""


def document(connection: Connection, identity: UUID, sources: Sequence[UUID] | None) -> dict[str, Any] | None:
    """Return a document that has chunks to read, without its text; None if there is none, or none to see."""
    found = dicts(
        connection,
        f"""
        WITH item AS (SELECT i.document_id, i.document_created_at, s.name AS source {_VISIBLE})
        SELECT d.id, d.title, item.source, d.source_type, d.source_id, d.source_url, d.author, d.language,
            d.category, coalesce(d.tags, '{{}}') AS tags, d.created_at, d.indexed_at,
            (SELECT count(*) FROM document_chunks c
             WHERE c.document_id = d.id AND c.document_created_at = d.created_at AND c.live) AS chunks
        FROM item JOIN documents d ON d.id = item.document_id AND d.created_at = item.document_created_at
        """,
        {"document": identity, "sources": None if sources is None else list(sources)},
    )
    return found[0] if found and found[0]["chunks"] else None


def chunks(
    connection: Connection, identity: UUID, sources: Sequence[UUID] | None, first: int, limit: int
) -> list[dict[str, Any]]:
    """Return the live chunks of a document from a position on, in order; none if it is not to be seen."""
    rows = dicts(
        connection,
        f"""
        WITH item AS (SELECT i.document_id, i.document_created_at {_VISIBLE})
        SELECT c.id AS chunk_id, c.position, c.section_title, c.hierarchy_level, c.parent_chunk_id, c.chunk_type,
            c.content, d.title, {CONTEXT} AS context
        FROM item JOIN documents d ON d.id = item.document_id AND d.created_at = item.document_created_at
        JOIN document_chunks c
            ON c.document_id = item.document_id AND c.document_created_at = item.document_created_at
        WHERE c.live AND c.position >= %(first)s ORDER BY c.position LIMIT %(limit)s
        """,
        {
            "document": identity,
            "sources": None if sources is None else list(sources),
            "first": first,
            "limit": limit,
        },
    )
    for row in rows:
        row["section_path"] = section_path(row.pop("context"), row.pop("title"), row["section_title"])
    return rows


def sources_to_see(connection: Connection, sources: Sequence[UUID] | None) -> list[dict[str, Any]]:
    """Return these sources (None: all), by name, with how many documents of each are ingested."""
    return dicts(
        connection,
        f"""
        SELECT name, source_type AS type, last_sync_at, successful_documents AS documents FROM sources s
        WHERE {IS_LEFT} AND (%(sources)s::uuid[] IS NULL OR id = ANY(%(sources)s::uuid[])) ORDER BY name, source_type
        """,
        {"sources": None if sources is None else list(sources)},
    )
