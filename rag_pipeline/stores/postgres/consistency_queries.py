"""The queries of the consistency checker. They only read; `consistency_repairs` repairs what is found here.

Each `Mismatch` is a condition that never holds between two transactions of the write path: a single statement sees
one state of the database. Conditions that hold for a moment during a run are not reported while the month's lock
is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.postgres.advisory_locks import lock_key, month_lock_name
from rag_pipeline.stores.postgres.database import dicts, let_read_a_month, named, objects, value, values
from rag_pipeline.stores.postgres.month_bounds import (
    CHUNKS_OF_MONTH,
    DOCUMENTS_OF_MONTH,
    ITEMS_OF_MONTH,
    month_bounds,
)
from rag_pipeline.stores.postgres.statuses import (
    ITEM_KEPT,
    TO_CHUNK,
    TO_EMBED,
    TO_INDEX,
    EmbeddingStatus,
    IndexingStatus,
    ItemState,
    one_of,
)
from rag_pipeline.stores.vector_ids import column

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Connection

SAMPLE = 20
STUCK_AFTER = "interval '1 hour'"
"""Unfinished work that has not changed for this long is stuck, unless a run holds its month's lock."""

_OF_DOCUMENT = "c.document_id = d.id AND c.document_created_at = d.created_at"
_ITS_CHUNK = f"{_OF_DOCUMENT} AND {CHUNKS_OF_MONTH}"
_ITS_DOCUMENT = f"{_OF_DOCUMENT} AND {DOCUMENTS_OF_MONTH}"
"""With the bounds of both sides: the planner does not conclude one side's from the other's, and plans all months."""

_LOCK = lock_key("%(lock)s")
_NO_RUN = f"""NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = (({_LOCK} >> 32) & 4294967295)::oid AND l.objid = ({_LOCK} & 4294967295)::oid)"""
"""No session holds the month's lock (pg_locks shows the halves of a 64-bit key as classid and objid)."""

ORPHANED = f"{CHUNKS_OF_MONTH} AND NOT EXISTS (SELECT FROM documents d WHERE {_ITS_DOCUMENT})"
WRONG_COUNT = f"""{DOCUMENTS_OF_MONTH} AND d.chunk_count IS DISTINCT FROM (
    SELECT count(*) FROM document_chunks c WHERE {_ITS_CHUNK} AND NOT c.superseded)"""
UNFINISHED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND EXISTS (
    SELECT FROM document_chunks c WHERE {_ITS_CHUNK}
        AND (c.embedding_status <> {EmbeddingStatus.COMPLETED.sql}
            OR NOT c.live OR c.superseded OR c.next_place IS NOT NULL))"""
MOVED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND EXISTS (
    SELECT FROM document_chunks c WHERE {_ITS_CHUNK} AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql}
        AND (c.stored_position, c.stored_language) IS DISTINCT FROM (c.position, d.language))"""
NOTHING_FAILED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.FAILED.sql} AND NOT EXISTS (
    SELECT FROM document_chunks c WHERE {_ITS_CHUNK} AND c.embedding_status = {EmbeddingStatus.FAILED.sql})"""
_STUCK = f"""{DOCUMENTS_OF_MONTH} AND d.updated_at < now() - {STUCK_AFTER} AND {_NO_RUN}
    AND (d.processing_status IN {one_of(*TO_CHUNK)} OR d.indexing_status IN {one_of(*TO_INDEX)})"""
WITHOUT_DOCUMENT = f"""i.state = {ItemState.INGESTED.sql} AND {ITEMS_OF_MONTH}
    AND NOT EXISTS (SELECT FROM documents d WHERE d.id = i.document_id AND d.created_at = i.document_created_at
        AND {DOCUMENTS_OF_MONTH})"""
_NOT_NOTED = """NOT EXISTS (
    SELECT FROM generation_changes n WHERE n.generation = %(generation)s
        AND n.document_created_at = i.document_created_at AND n.document_id = i.document_id)"""
"""Not a document that a generation beside the live one is still to take over."""
_ALL_IDS = " AND ".join(
    f"('{kind}' <> ALL(%(built)s::text[]) OR c.{column(kind)} IS NOT NULL)" for kind in VECTOR_KINDS
)
WITHOUT_IDS = f"{CHUNKS_OF_MONTH} AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql} AND NOT ({_ALL_IDS})"
NOT_COMPLETED = (
    f"{CHUNKS_OF_MONTH} AND c.embedding_status IN {one_of(*TO_EMBED, EmbeddingStatus.FAILED)} AND {_ALL_IDS}"
)
_LEFT_PROCESSING = f"{CHUNKS_OF_MONTH} AND c.embedding_status = {EmbeddingStatus.PROCESSING.sql} AND {_NO_RUN}"
CHUNK_OF_WRONG_SOURCE = (
    f"{CHUNKS_OF_MONTH} AND c.live AND i.document_id = c.document_id AND c.source IS DISTINCT FROM i.source"
)
DOCUMENT_OF_WRONG_SOURCE = f"{DOCUMENTS_OF_MONTH} AND i.document_id = d.id AND d.source IS DISTINCT FROM i.source"
_WORDS = "CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(c.content_words, '')) || ARRAY['']) AS word(term)"
"""The words of a chunk, and the empty one that counts the chunk itself."""
TERMS = f"""
    SELECT term, source, sum(stored) AS stored, sum(counted) AS counted FROM (
        SELECT term, source, chunks AS stored, 0 AS counted FROM term_statistics WHERE month = %(month)s
        UNION ALL
        SELECT word.term, c.source, 0, count(*) FROM document_chunks c
        {_WORDS}
        WHERE c.live AND c.source IS NOT NULL AND {CHUNKS_OF_MONTH}
        GROUP BY word.term, c.source
    ) both_sides GROUP BY term, source HAVING sum(stored) <> sum(counted)"""
_TERMS_OF_DOCUMENTS = f"""
    SELECT word.term, c.source, coalesce(t.chunks, 0) AS stored, count(*) AS at_least FROM document_chunks c
    {_WORDS}
    LEFT JOIN term_statistics t ON t.term = word.term AND t.source = c.source AND t.month = %(month)s
    WHERE c.live AND c.source IS NOT NULL AND {CHUNKS_OF_MONTH} AND c.document_id = ANY(%(documents)s)
    GROUP BY word.term, c.source, t.chunks HAVING coalesce(t.chunks, 0) < count(*)"""
"""Words that are counted less often in the whole month of a source than these documents of it have them."""

_A_DOCUMENT = "d.id AS document_id, d.source_id"
_IDS = ", ".join(f"c.{column(kind)}" for kind in VECTOR_KINDS)
_A_CHUNK = "c.id AS chunk_id, c.document_id, c.position"
_CHUNKS_OF_WRONG_SOURCE = (
    f"SELECT {_A_CHUNK}, c.source FROM document_chunks c, source_items i WHERE {CHUNK_OF_WRONG_SOURCE}"
)


@dataclass(frozen=True)
class Mismatch:
    """A contradiction to look for: its table, its query, and what a finding says."""

    where: str
    problem: str
    query: str
    what_to_do: str
    of_documents: str | None = None
    """The query for some of the month's documents. None: `query` reads only what is unfinished, and is fast."""


def _costly(problem: str, query: str, what_to_do: str) -> Mismatch:
    """A mismatch of documents whose query reads a whole month, unless it is about some documents."""
    return Mismatch("documents", problem, query, what_to_do, f"{query} AND d.id = ANY(%(documents)s)")


MISMATCHES = (
    _costly(
        "documents whose chunk_count differs from the number of their chunks",
        f"SELECT {_A_DOCUMENT}, d.chunk_count, (SELECT count(*) FROM document_chunks c WHERE {_ITS_CHUNK} "
        f"AND NOT c.superseded) AS chunks FROM documents d WHERE {WRONG_COUNT}",
        "the documents are re-chunked; unchanged chunks keep their vectors",
    ),
    _costly(
        "completed documents with unfinished chunks",
        f"SELECT {_A_DOCUMENT}, d.indexing_status FROM documents d WHERE {UNFINISHED}",
        "the documents become pending, and their chunks are finished",
    ),
    _costly(
        "completed documents whose vectors are stored with an old position or language",
        f"SELECT {_A_DOCUMENT}, d.language FROM documents d WHERE {MOVED}",
        "position and language are rewritten in the collections, with the stored vectors",
    ),
    _costly(
        "documents with another source than their item",
        f"SELECT {_A_DOCUMENT}, d.source FROM documents d, source_items i WHERE {DOCUMENT_OF_WRONG_SOURCE}",
        "they get the source of their item",
    ),
    Mismatch(
        "documents",
        "failed documents without a failed chunk",
        f"SELECT {_A_DOCUMENT}, d.error_message FROM documents d WHERE {NOTHING_FAILED}",
        "the documents become pending",
    ),
    Mismatch(
        "documents",
        "documents unfinished for over an hour, with no run in progress",
        f"SELECT {_A_DOCUMENT}, d.processing_status, d.indexing_status, d.updated_at FROM documents d "
        f"WHERE {_STUCK}",
        "the month is run; if Dagster's daemon is on, find out why index_pending_months does not run it",
    ),
    Mismatch(
        "documents",
        "items marked ingested, without a document",
        f"SELECT i.source_type, i.source_id, i.document_id FROM source_items i WHERE {WITHOUT_DOCUMENT} AND {_NOT_NOTED}",
        "the items are fetched from their source again",
    ),
    Mismatch(
        "document_chunks",
        "completed chunks without the ids of their vectors",
        f"SELECT {_A_CHUNK}, {_IDS} FROM document_chunks c WHERE {WITHOUT_IDS}",
        "ids of stored vectors are written back; chunks without vectors are embedded",
    ),
    Mismatch(
        "document_chunks",
        "chunks with the ids of all their vectors that are not completed",
        f"SELECT {_A_CHUNK}, c.embedding_status, c.embedding_error FROM document_chunks c WHERE {NOT_COMPLETED}",
        "they become completed; those whose vectors are not stored are then embedded",
    ),
    Mismatch(
        "document_chunks",
        "chunks in processing, with no run in progress",
        f"SELECT {_A_CHUNK}, c.updated_at FROM document_chunks c WHERE {_LEFT_PROCESSING}",
        "they become pending, and the month is run",
    ),
    Mismatch(
        "document_chunks",
        "live chunks with another source than their document",
        _CHUNKS_OF_WRONG_SOURCE,
        "they get the source of the document's item, and their words are recounted",
        f"{_CHUNKS_OF_WRONG_SOURCE} AND c.document_id = ANY(%(documents)s)",
    ),
    Mismatch(
        "document_chunks",
        "words whose term_statistics differ from the live chunks",
        TERMS,
        "the words of the live chunks are recounted",
        _TERMS_OF_DOCUMENTS,
    ),
)


@dataclass(frozen=True)
class ChunkState:
    """A chunk, as the comparison with a collection needs it."""

    id: UUID
    status: str
    has_id: bool
    """Whether its row names its vector of the collection's kind."""
    vectors: int
    """Number of rows it has in the collection once it is completed."""


def of_month(month: Month, built: Sequence[str] = (), generation: int | None = None) -> dict[str, Any]:
    """Return the parameters of this module's conditions."""
    return {
        **month_bounds(month),
        "month": month.start.date(),
        "lock": month_lock_name(month, generation),
        "built": list(built),
    }


def mismatched(
    connection: Connection,
    mismatch: Mismatch,
    month: Month,
    built: Sequence[str],
    documents: Collection[UUID] | None = None,
    generation: int | None = None,
) -> tuple[int, list[dict[str, Any]]]:
    """Return (number, sample) of the rows of a month with a contradiction, in the live generation or another one.

    With `documents`, a query that would read the whole month looks at these only.
    """
    query = mismatch.query if documents is None else mismatch.of_documents or mismatch.query
    of = {"documents": list(documents or ()), "generation": generation}
    return _counted(connection, query, of_month(month, built, generation) | of)


def orphaned_chunks(connection: Connection, month: Month) -> tuple[int, list[dict[str, Any]]]:
    """Return (number, sample) of a month's chunks without a document."""
    return _counted(connection, f"SELECT {_A_CHUNK} FROM document_chunks c WHERE {ORPHANED}", of_month(month))


def quarantined(connection: Connection, month: Month) -> tuple[int, list[dict[str, Any]]]:
    """Return (number, sample) of a month's documents that cannot be read, or whose chunks cannot be embedded."""
    return _counted(
        connection,
        f"""
        SELECT i.source_type, i.source_id, coalesce(i.error_message, d.error_message, '') AS reason
        FROM source_items i LEFT JOIN documents d ON d.id = i.document_id AND d.created_at = i.document_created_at
            AND {DOCUMENTS_OF_MONTH}
        WHERE (i.state = {ItemState.FAILED.sql} OR d.indexing_status = {IndexingStatus.FAILED.sql})
            AND {ITEMS_OF_MONTH}
        ORDER BY 1, 2
        """,
        of_month(month),
    )


def chunks_within(
    connection: Connection, month: Month, kind: VectorKind, first: UUID | None, after: UUID | None
) -> dict[UUID, ChunkState]:
    """Return a month's chunks with ids from `first` on and before `after`; None leaves that side open."""
    states = objects(
        connection,
        ChunkState,
        f"""
        SELECT {_state(kind)} FROM document_chunks c
        WHERE {CHUNKS_OF_MONTH} AND (%(first)s::uuid IS NULL OR c.id >= %(first)s)
            AND (%(after)s::uuid IS NULL OR c.id < %(after)s)
        """,
        of_month(month) | {"first": first, "after": after},
    )
    return {state.id: state for state in states}


def chunks_named(
    connection: Connection, month: Month, kind: VectorKind, ids: Sequence[UUID]
) -> dict[UUID, ChunkState]:
    """Return those of these chunks that belong to the month."""
    states = objects(
        connection,
        ChunkState,
        f"SELECT {_state(kind)} FROM document_chunks c WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s)",
        of_month(month) | {"ids": list(ids)},
    )
    return {state.id: state for state in states}


def pending_deletions(connection: Connection, first: UUID | None, after: UUID | None) -> set[UUID]:
    """Return the chunks in the outbox with ids from `first` on and before `after`; None leaves that side open.

    Their vectors might still be stored.
    """
    chunks = values(
        connection,
        """
        SELECT chunk_id FROM vector_deletions
        WHERE chunk_id >= coalesce(%(first)s, '00000000-0000-0000-0000-000000000000'::uuid)
            AND (%(after)s::uuid IS NULL OR chunk_id < %(after)s)
        """,
        {"first": first, "after": after},
    )
    return set(chunks)


def pending_deletions_among(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Return those of these chunks that are in the outbox: their vectors might still be stored."""
    chunks = values(connection, "SELECT chunk_id FROM vector_deletions WHERE chunk_id = ANY(%s)", (list(ids),))
    return set(chunks)


def months_of(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Month]:
    """Return the month of each of these chunks."""
    query = "SELECT id, document_created_at FROM document_chunks WHERE id = ANY(%s)"
    return {row.id: Month.of(row.document_created_at) for row in named(connection, query, (list(ids),))}


def describe_chunks(connection: Connection, month: Month, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Return id, document, position and source_id of these chunks, for a finding's sample."""
    return dicts(
        connection,
        f"""
        SELECT {_A_CHUNK}, d.source_id FROM document_chunks c
        LEFT JOIN documents d ON {_ITS_DOCUMENT}
        WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s) ORDER BY c.id
        """,
        of_month(month) | {"ids": list(ids)},
    )


def expects_vectors(connection: Connection, month: Month | None = None) -> bool:
    """Whether any chunk, of a month or at all, is completed and so has stored vectors."""
    return value(
        connection,
        f"""
        SELECT EXISTS (SELECT FROM document_chunks c WHERE c.embedding_status = {EmbeddingStatus.COMPLETED.sql}
            {f"AND {CHUNKS_OF_MONTH}" if month else ""})
        """,
        of_month(month) if month else {},
    )


def months_of_items(connection: Connection) -> list[Month]:
    """Return the months that a source has items for, without expired and gone ones."""
    months = values(
        connection,
        f"""
        SELECT DISTINCT to_char(document_created_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM source_items
        WHERE state IN {one_of(*ITEM_KEPT)} ORDER BY 1
        """,
    )
    return [Month.parse(month) for month in months]


def _state(kind: VectorKind) -> str:
    vectors = "c.multi_vector_count" if kind == "multi" else "1"
    return f"c.id, c.embedding_status AS status, c.{column(kind)} IS NOT NULL AS has_id, {vectors} AS vectors"


def _counted(connection: Connection, query: str, parameters: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    let_read_a_month(connection)
    rows = dicts(connection, f"SELECT count(*) OVER () AS total_, q.* FROM ({query}) q LIMIT {SAMPLE}", parameters)
    return (rows[0]["total_"] if rows else 0), [{k: v for k, v in row.items() if k != "total_"} for row in rows]
