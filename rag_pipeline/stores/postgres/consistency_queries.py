"""What the consistency checker asks of PostgreSQL. Reads only; `repairs` puts right what is found here.

Each `Mismatch` is a condition that never holds between two transactions of the write path, whatever it is doing: a
single statement sees one state of the database. Those that may hold for a moment are left out while the month's lock
is held.
"""

# The conditions are constants of this module, put together; values are always parameters.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.postgres.database import dicts, named, objects, value, values
from rag_pipeline.stores.postgres.month_bounds import (
    CHUNKS_OF_MONTH,
    DOCUMENTS_OF_MONTH,
    ITEMS_OF_MONTH,
    month_bounds,
)
from rag_pipeline.stores.postgres.statuses import (
    ITEM_KEPT,
    TO_CHUNK,
    TO_INDEX,
    EmbeddingStatus,
    IndexingStatus,
    ItemState,
    one_of,
)
from rag_pipeline.stores.vector_ids import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.database import Connection

SAMPLE = 20
STUCK_AFTER = "interval '1 hour'"
"""Without a run at work, unfinished work that nobody has touched for so long is stuck."""

_OF_DOCUMENT = "c.document_id = d.id AND c.document_created_at = d.created_at"

_LOCK = "hashtextextended(%(lock)s, 0)"
_NO_RUN = f"""NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = (({_LOCK} >> 32) & 4294967295)::oid AND l.objid = ({_LOCK} & 4294967295)::oid)"""
"""Nobody holds the month's lock (pg_locks has a 64-bit key's halves as classid and objid)."""

ORPHANED = f"{CHUNKS_OF_MONTH} AND NOT EXISTS (SELECT FROM documents d WHERE {_OF_DOCUMENT})"
WRONG_COUNT = f"""{DOCUMENTS_OF_MONTH} AND d.chunk_count IS DISTINCT FROM (
    SELECT count(*) FROM document_chunks c WHERE {_OF_DOCUMENT} AND NOT c.retired)"""
UNFINISHED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND EXISTS (
    SELECT FROM document_chunks c WHERE {_OF_DOCUMENT}
        AND (c.embedding_status <> {EmbeddingStatus.COMPLETED.sql} OR NOT c.live OR c.retired OR c.next_place IS NOT NULL))"""
MOVED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND EXISTS (
    SELECT FROM document_chunks c WHERE {_OF_DOCUMENT} AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql}
        AND (c.stored_position, c.stored_language) IS DISTINCT FROM (c.position, d.language))"""
NOTHING_FAILED = f"""{DOCUMENTS_OF_MONTH} AND d.indexing_status = {IndexingStatus.FAILED.sql} AND NOT EXISTS (
    SELECT FROM document_chunks c WHERE {_OF_DOCUMENT} AND c.embedding_status = {EmbeddingStatus.FAILED.sql})"""
_STUCK = f"""{DOCUMENTS_OF_MONTH} AND d.updated_at < now() - {STUCK_AFTER} AND {_NO_RUN}
    AND (d.processing_status IN {one_of(*TO_CHUNK)} OR d.indexing_status IN {one_of(*TO_INDEX)})"""
WITHOUT_DOCUMENT = f"""i.state = {ItemState.INGESTED.sql} AND {ITEMS_OF_MONTH}
    AND NOT EXISTS (SELECT FROM documents d WHERE d.id = i.document_id AND d.created_at = i.document_created_at)"""
_ALL_IDS = " AND ".join(
    f"('{kind}' <> ALL(%(built)s::text[]) OR c.{column(kind)} IS NOT NULL)" for kind in VECTOR_KINDS
)
WITHOUT_IDS = f"{CHUNKS_OF_MONTH} AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql} AND NOT ({_ALL_IDS})"
NOT_COMPLETED = f"{CHUNKS_OF_MONTH} AND c.embedding_status <> {EmbeddingStatus.COMPLETED.sql} AND {_ALL_IDS}"
_ABANDONED = f"{CHUNKS_OF_MONTH} AND c.embedding_status = {EmbeddingStatus.PROCESSING.sql} AND {_NO_RUN}"
TERMS = f"""
    SELECT term, sum(stored) AS stored, sum(counted) AS counted FROM (
        SELECT term, chunks AS stored, 0 AS counted FROM term_statistics WHERE month = %(month)s
        UNION ALL
        SELECT word.term, 0, count(*) FROM document_chunks c
        CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(c.content_words, '')) || ARRAY['']) AS word(term)
        WHERE c.live AND {CHUNKS_OF_MONTH}
        GROUP BY word.term
    ) both_sides GROUP BY term HAVING sum(stored) <> sum(counted)"""

_A_DOCUMENT = "d.id AS document_id, d.source_id"
_IDS = ", ".join(f"c.{column(kind)}" for kind in VECTOR_KINDS)
_A_CHUNK = "c.id AS chunk_id, c.document_id, c.position"


@dataclass(frozen=True)
class Mismatch:
    """A contradiction that is looked for: in which table, the query, and what to say of it."""

    where: str
    problem: str
    query: str
    what_to_do: str


MISMATCHES = (
    Mismatch(
        "documents",
        "chunk_count is not the number of its chunks",
        f"SELECT {_A_DOCUMENT}, d.chunk_count, (SELECT count(*) FROM document_chunks c WHERE {_OF_DOCUMENT} "
        f"AND NOT c.retired) AS chunks FROM documents d WHERE {WRONG_COUNT}",
        "the documents are cut anew; chunks that are still there keep their vectors",
    ),
    Mismatch(
        "documents",
        "completed, with chunks that are not",
        f"SELECT {_A_DOCUMENT}, d.indexing_status FROM documents d WHERE {UNFINISHED}",
        "the documents become pending, and their chunks are finished",
    ),
    Mismatch(
        "documents",
        "completed, with chunks whose stored position or language is another",
        f"SELECT {_A_DOCUMENT}, d.language FROM documents d WHERE {MOVED}",
        "position and language are written to the collections anew, with the vectors that are stored",
    ),
    Mismatch(
        "documents",
        "failed, without a chunk that is",
        f"SELECT {_A_DOCUMENT}, d.error_message FROM documents d WHERE {NOTHING_FAILED}",
        "the documents become pending",
    ),
    Mismatch(
        "documents",
        "unfinished for over an hour, and no run is at work",
        f"SELECT {_A_DOCUMENT}, d.processing_status, d.indexing_status, d.updated_at FROM documents d WHERE {_STUCK}",
        "the month is run; where Dagster's daemon is on, see why index_pending_months does not",
    ),
    Mismatch(
        "documents",
        "items that say ingested, without a document",
        f"SELECT i.source_type, i.source_id, i.document_id FROM source_items i WHERE {WITHOUT_DOCUMENT}",
        "the items are fetched from their source anew",
    ),
    Mismatch(
        "document_chunks",
        "completed, without the ids of their vectors",
        f"SELECT {_A_CHUNK}, {_IDS} FROM document_chunks c WHERE {WITHOUT_IDS}",
        "ids of vectors that are stored are written back; what has none is embedded",
    ),
    Mismatch(
        "document_chunks",
        "with the ids of all their vectors, and not completed",
        f"SELECT {_A_CHUNK}, c.embedding_status, c.embedding_error FROM document_chunks c WHERE {NOT_COMPLETED}",
        "they become completed; vectors that are not stored are then embedded",
    ),
    Mismatch(
        "document_chunks",
        "processing, and no run is at work",
        f"SELECT {_A_CHUNK}, c.updated_at FROM document_chunks c WHERE {_ABANDONED}",
        "they become pending, and the month is run",
    ),
    Mismatch(
        "document_chunks",
        "term_statistics differ from the live chunks",
        TERMS,
        "the words of the live chunks are counted anew",
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
    """How many rows it has in the collection, where it is completed."""


def of_month(month: Month, built: Sequence[str] = ()) -> dict[str, Any]:
    """The parameters of this module's conditions."""
    return {
        **month_bounds(month),
        "month": month.start.date(),
        "lock": f"month {month}",
        "built": list(built),
    }


def mismatched(
    connection: Connection, mismatch: Mismatch, month: Month, built: Sequence[str]
) -> tuple[int, list[dict[str, Any]]]:
    """(how many, a sample) of a contradiction in a month."""
    return _counted(connection, mismatch.query, of_month(month, built))


def orphaned_chunks(connection: Connection, month: Month) -> tuple[int, list[dict[str, Any]]]:
    """(how many, a sample) of a month's chunks without a document."""
    return _counted(connection, f"SELECT {_A_CHUNK} FROM document_chunks c WHERE {ORPHANED}", of_month(month))


def quarantined(connection: Connection, month: Month) -> tuple[int, list[dict[str, Any]]]:
    """(how many, a sample) of a month's documents that cannot be read, or have chunks that cannot be embedded."""
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
    """A month's chunks with ids in a range."""
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
    """Those of these chunks that a month has."""
    states = objects(
        connection,
        ChunkState,
        f"SELECT {_state(kind)} FROM document_chunks c WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s)",
        of_month(month) | {"ids": list(ids)},
    )
    return {state.id: state for state in states}


def leaving(connection: Connection, first: UUID | None, after: UUID | None) -> set[UUID]:
    """The chunks in the outbox with ids in a range: their vectors may still be stored."""
    chunks = values(
        connection,
        """
        SELECT chunk_id FROM vector_deletions
        WHERE (%(first)s::uuid IS NULL OR chunk_id >= %(first)s) AND (%(after)s::uuid IS NULL OR chunk_id < %(after)s)
        """,
        {"first": first, "after": after},
    )
    return set(chunks)


def months_of(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Month]:
    """The months of these chunks, whatever they are."""
    query = "SELECT id, document_created_at FROM document_chunks WHERE id = ANY(%s)"
    return {row.id: Month.of(row.document_created_at) for row in named(connection, query, (list(ids),))}


def describe_chunks(connection: Connection, month: Month, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """What a person wants to know of these chunks."""
    return dicts(
        connection,
        f"""
        SELECT {_A_CHUNK}, d.source_id FROM document_chunks c
        LEFT JOIN documents d ON {_OF_DOCUMENT} AND {DOCUMENTS_OF_MONTH}
        WHERE {CHUNKS_OF_MONTH} AND c.id = ANY(%(ids)s) ORDER BY c.id
        """,
        of_month(month) | {"ids": list(ids)},
    )


def expects_vectors(connection: Connection, month: Month | None = None) -> bool:
    """Whether any chunk, of a month or at all, says that its vectors are stored."""
    return value(
        connection,
        f"""
        SELECT EXISTS (SELECT FROM document_chunks c WHERE c.embedding_status = {EmbeddingStatus.COMPLETED.sql}
            {f"AND {CHUNKS_OF_MONTH}" if month else ""})
        """,
        of_month(month) if month else {},
    )


def months_of_items(connection: Connection) -> list[Month]:
    """The months that a source has items for, those left out that are retired or gone."""
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
    rows = dicts(connection, f"SELECT count(*) OVER () AS total_, q.* FROM ({query}) q LIMIT {SAMPLE}", parameters)
    return (rows[0]["total_"] if rows else 0), [{k: v for k, v in row.items() if k != "total_"} for row in rows]
