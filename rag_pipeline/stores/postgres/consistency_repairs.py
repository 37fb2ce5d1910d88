"""Repairs in PostgreSQL what `consistency_queries` finds, as far as the write path does not do it.

The caller holds the month's lock. Nothing is embedded here: what has to be rebuilt becomes pending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.stores.postgres.consistency_queries import (
    CHUNK_OF_WRONG_SOURCE,
    DOCUMENT_OF_WRONG_SOURCE,
    MOVED,
    NOT_COMPLETED,
    NOTHING_FAILED,
    ORPHANED,
    TERMS,
    UNFINISHED,
    WITHOUT_DOCUMENT,
    WITHOUT_IDS,
    WRONG_COUNT,
    of_month,
)
from rag_pipeline.stores.postgres.month_bounds import CHUNKS_OF_MONTH, DOCUMENTS_OF_MONTH
from rag_pipeline.stores.postgres.source_items import IN_ORDER
from rag_pipeline.stores.postgres.statuses import (
    EmbeddingStatus,
    IndexingStatus,
    ItemState,
    ProcessingStatus,
    one_of,
)
from rag_pipeline.stores.vector_ids import column, mapped_id_sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Connection


def delete_orphaned_chunks(connection: Connection, month: Month) -> int:
    """Delete chunks without a document; their vectors go to the outbox. Return the number of chunks."""
    return connection.execute(f"DELETE FROM document_chunks c WHERE {ORPHANED}", of_month(month)).rowcount


def refetch_items(connection: Connection, month: Month) -> int:
    """Make ingested items without a document pending and forget what was read of them; return their number."""
    return connection.execute(
        f"""
        WITH fetched AS (
            SELECT i.source_type, i.source_id FROM source_items i WHERE {WITHOUT_DOCUMENT}
            {IN_ORDER} FOR NO KEY UPDATE OF i
        )
        UPDATE source_items i SET
            state = {ItemState.PENDING.sql}, ingested_fingerprint = NULL, ingested_recipe = NULL,
            content_hash = NULL
        FROM fetched WHERE (i.source_type, i.source_id) = (fetched.source_type, fetched.source_id)
        """,
        of_month(month),
    ).rowcount


def repair_statuses(connection: Connection, month: Month, built: Sequence[VectorKind]) -> int:
    """Make documents and chunks with contradictory counts or states pending; return the number of rows.

    Chunks with the ids of all their vectors become `completed`; `forget_vectors` takes back missing ones.
    """
    parameters = of_month(month, built)
    touched = connection.execute(
        f"""
        UPDATE documents d SET
            processing_status = {ProcessingStatus.PROCESSING.sql}, indexing_status = {IndexingStatus.PENDING.sql},
            updated_at = now()
        WHERE {WRONG_COUNT}
        """,
        parameters,
    ).rowcount
    touched += connection.execute(
        f"""
        UPDATE document_chunks c SET
            embedding_status = {EmbeddingStatus.COMPLETED.sql}, embedding_error = NULL, updated_at = now()
        WHERE {NOT_COMPLETED}
        """,
        parameters,
    ).rowcount
    touched += connection.execute(
        f"""
        UPDATE document_chunks c SET
            embedding_status = {EmbeddingStatus.PENDING.sql}, embedding_error = NULL, updated_at = now()
        FROM documents d
        WHERE d.id = c.document_id AND d.created_at = c.document_created_at AND {CHUNKS_OF_MONTH}
            AND {DOCUMENTS_OF_MONTH}
            AND (c.embedding_status = {EmbeddingStatus.PROCESSING.sql}
                OR c.embedding_status = {EmbeddingStatus.FAILED.sql}
                    AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND NOT c.superseded)
        """,
        parameters,
    ).rowcount
    touched += connection.execute(
        f"""
        UPDATE documents d SET indexing_status = {IndexingStatus.INDEXING.sql}, updated_at = now(),
            error_message = CASE WHEN d.processing_status = {ProcessingStatus.FAILED.sql} THEN d.error_message END
        WHERE ({UNFINISHED}) OR ({MOVED}) OR ({NOTHING_FAILED})
        """,
        parameters,
    ).rowcount
    return touched


def forget_vectors(connection: Connection, month: Month, kind: VectorKind, ids: Sequence[UUID]) -> int:
    """Make chunks whose vectors of this kind are not stored pending, whatever they were; return their number.

    Their other vectors keep their ids, and a live chunk stays live.
    """
    parameters = of_month(month) | {"ids": list(ids)}
    count = connection.execute(
        f"""
        UPDATE document_chunks c SET
            {column(kind)} = NULL, embedding_status = {EmbeddingStatus.PENDING.sql}, embedding_error = NULL,
            updated_at = now()
        WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s)
        """,
        parameters,
    ).rowcount
    connection.execute(
        f"""
        UPDATE documents d SET indexing_status = {IndexingStatus.INDEXING.sql}, updated_at = now()
        WHERE {DOCUMENTS_OF_MONTH}
            AND d.indexing_status IN {one_of(IndexingStatus.COMPLETED, IndexingStatus.FAILED)} AND d.id IN (
            SELECT c.document_id FROM document_chunks c WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s))
        """,
        parameters,
    )
    return count


def restore_ids(connection: Connection, month: Month, built: Sequence[VectorKind]) -> int:
    """Write missing ids back to completed chunks, after `forget_vectors`; return the number of chunks."""
    columns = ", ".join(f"{column(kind)} = {mapped_id_sql(kind, 'c.id')}" for kind in built)
    return connection.execute(
        f"UPDATE document_chunks c SET {columns}, updated_at = now() WHERE {WITHOUT_IDS}", of_month(month, built)
    ).rowcount


def restore_sources(connection: Connection, month: Month) -> int:
    """Give documents and live chunks the source of their item; return the number of rows. `recount_terms` follows."""
    restored = connection.execute(
        f"""
        UPDATE documents d SET source = i.source, updated_at = now() FROM source_items i
        WHERE {DOCUMENT_OF_WRONG_SOURCE}
        """,
        of_month(month),
    ).rowcount
    restored += connection.execute(
        f"""
        UPDATE document_chunks c SET source = i.source, updated_at = now() FROM source_items i
        WHERE {CHUNK_OF_WRONG_SOURCE}
        """,
        of_month(month),
    ).rowcount
    return restored


def recount_terms(connection: Connection, month: Month) -> int:
    """Recount the words of a month's live chunks whose counts differ; return the number of words."""
    return connection.execute(
        f"""
        WITH wrong AS ({TERMS}), gone AS (
            DELETE FROM term_statistics t USING wrong
            WHERE t.term = wrong.term AND t.source = wrong.source AND t.month = %(month)s AND wrong.counted = 0
        )
        INSERT INTO term_statistics AS t (term, month, source, chunks)
        SELECT term, %(month)s, source, counted FROM wrong WHERE counted > 0 ORDER BY term, source
        ON CONFLICT (term, source, month) DO UPDATE SET chunks = excluded.chunks
        """,
        of_month(month),
    ).rowcount
