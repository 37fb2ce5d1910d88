"""`document_chunks`: the chunks of each document, of its live version and of the next one, and their vectors' ids.

A row is *live* when searches see it. An edit adds the next version's new chunks beside the live ones, marks the
live ones that the next version drops as *superseded*, and stores in `next_place` where the others will stand.
`switch` makes the next version live in a single transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.documents.headings import MAX_CONTEXT
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.postgres import index_epochs
from rag_pipeline.stores.postgres.database import dicts, let_read_a_month, named, objects, value, values
from rag_pipeline.stores.postgres.month_bounds import CHUNKS_OF_MONTH, DOCUMENTS_OF_MONTH, in_month, month_bounds
from rag_pipeline.stores.postgres.statuses import (
    RETRY_AT,
    TO_CHUNK,
    TO_EMBED,
    TO_INDEX,
    EmbeddingStatus,
    IndexingStatus,
    one_of,
)
from rag_pipeline.stores.vector_ids import column, mapped_id_sql

if TYPE_CHECKING:
    from datetime import datetime

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection

DocumentKey = tuple[UUID, "datetime"]
"""A document's id and created_at."""


@dataclass(frozen=True)
class StoredChunk:
    """A stored chunk, as the comparison with a document's new chunks needs it."""

    id: UUID
    document_id: UUID
    content: str
    content_hash: str
    embedding_text: str | None
    position: int
    live: bool
    superseded: bool


@dataclass(frozen=True)
class ChunkRow:
    """A chunk of a document's next version: a new row, or the next place of one that stays."""

    id: UUID
    document_id: UUID
    document_created_at: datetime
    is_new: bool
    position: int
    section_title: str | None
    hierarchy_level: int
    parent_chunk_id: UUID | None
    content: str | None = None
    """This field and those below are set only if `is_new`."""
    chunk_type: str | None = None
    token_count: int | None = None
    char_count: int | None = None
    content_hash: str | None = None
    embedding_text: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class ChunkToEmbed:
    """A claimed chunk: its text, and what is stored with its vectors in the collections."""

    id: UUID
    document_id: UUID
    created_at: datetime
    """The document's."""
    position: int
    text: str
    source_type: str
    source_id: str
    language: str
    stored: Sequence[str] = ()
    """The kinds of vectors that its row has the ids of: they were in the collections before."""
    source: UUID | None = None
    """The row of `sources`; None if its rows in the collections, which have it, are only to be moved."""


CONTEXT = f"""split_part(coalesce(substr(c.embedding_text, 1, {MAX_CONTEXT + 1}), ''), E'\\n', 1)"""
"""The line in front of what is embedded of a chunk `c`; empty if there is none. Only the beginning of the text is read."""

_PLACE_CHANGES = """(c.position, c.section_title, c.hierarchy_level, c.parent_chunk_id)
    IS DISTINCT FROM (d.position, d.section_title, d.hierarchy_level, d.parent_chunk_id)"""
_MOVED = "(c.stored_position, c.stored_language) IS DISTINCT FROM (c.position, d.language)"
"""The chunk's rows in the collections hold another position or language."""

_STORED_KINDS = ", ".join(f"CASE WHEN c.{column(kind)} IS NOT NULL THEN '{kind}' END" for kind in VECTOR_KINDS)
_OF_ITS_DOCUMENT = "d.source_type, d.source_id, i.source, coalesce(d.language, '') AS language"
_OF_ITSELF = f"""c.id, c.document_id, c.document_created_at AS created_at, c.position,
    coalesce(c.embedding_text, c.content) AS text, array_remove(ARRAY[{_STORED_KINDS}], NULL) AS stored"""
_TO_EMBED = f"{_OF_ITSELF}, {_OF_ITS_DOCUMENT}"
_CLAIM_BESIDE_OTHERS = f"""
    WITH next AS (
        SELECT c.id, c.document_created_at, {_OF_ITS_DOCUMENT} {{selected}} FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE document_chunks c SET embedding_status = {EmbeddingStatus.PROCESSING.sql}, updated_at = now()
    FROM next WHERE c.id = next.id AND c.document_created_at = next.document_created_at AND {CHUNKS_OF_MONTH}
    RETURNING {_OF_ITSELF}, next.source_type, next.source_id, next.source, next.language"""
_SET_MAPPED_IDS = ", ".join(
    f"{column(kind)} = CASE WHEN '{kind}' = ANY(%(kinds)s) "
    f"THEN {mapped_id_sql(kind, 'c.id')} ELSE c.{column(kind)} END"
    for kind in VECTOR_KINDS
)
_MISSES_A_VECTOR = " OR ".join(f"'{kind}' = ANY(%(built)s) AND c.{column(kind)} IS NULL" for kind in VECTOR_KINDS)
_HAS_EVERY_VECTOR = " AND ".join(
    f"('{kind}' = ANY(%(kinds)s) OR c.{column(kind)} IS NOT NULL OR NOT '{kind}' = ANY(%(built)s))"
    for kind in VECTOR_KINDS
)


def of_documents(
    connection: Connection, month: Month, documents: Sequence[DocumentKey]
) -> dict[UUID, list[StoredChunk]]:
    """Return the stored chunks of these documents of a month, of both versions, by document and position."""
    found: dict[UUID, list[StoredChunk]] = {document: [] for document, _ in documents}
    chunks = objects(
        connection,
        StoredChunk,
        f"""
        SELECT c.id, c.document_id, c.content, c.content_hash, c.embedding_text, c.position, c.live, c.superseded
        FROM document_chunks c
        WHERE c.document_id = ANY(%(documents)s) AND {CHUNKS_OF_MONTH}
        ORDER BY c.document_id, c.position
        """,
        {"documents": [document for document, _ in documents], **month_bounds(month)},
    )
    for chunk in chunks:
        found[chunk.document_id].append(chunk)
    return found


_CREATE_DRAFTED = """
    CREATE TEMPORARY TABLE IF NOT EXISTS drafted (
        id UUID, document_id UUID, document_created_at TIMESTAMPTZ, is_new BOOLEAN, position INTEGER,
        section_title TEXT, hierarchy_level INTEGER, parent_chunk_id UUID, content TEXT, chunk_type TEXT,
        token_count INTEGER, char_count INTEGER, content_hash TEXT, embedding_text TEXT, words TEXT
    ) ON COMMIT DELETE ROWS"""

_LEAVE_OUT_DELETED = f"""
    WITH existing AS (
        -- Locked, so that a document that is deleted now takes its new chunks along.
        SELECT d.id FROM documents d WHERE d.id = ANY(%(documents)s) AND {DOCUMENTS_OF_MONTH} FOR KEY SHARE
    )
    DELETE FROM drafted WHERE document_id NOT IN (SELECT id FROM existing)"""

_ADD_NEW = """
    INSERT INTO document_chunks (id, document_id, document_created_at, position, section_title, hierarchy_level,
        parent_chunk_id, content, chunk_type, token_count, char_count, content_hash, embedding_text, content_words)
    SELECT id, document_id, document_created_at, position, section_title, hierarchy_level, parent_chunk_id,
        content, chunk_type, token_count, char_count, content_hash, embedding_text, to_tsvector('japanese', words)
    FROM drafted WHERE is_new"""

_NOTE_NEXT_PLACE_OF_LIVE = f"""
    UPDATE document_chunks c SET
        superseded = false, updated_at = now(),
        next_place = CASE WHEN {_PLACE_CHANGES}
            THEN jsonb_build_object('position', d.position, 'section_title', d.section_title,
                'hierarchy_level', d.hierarchy_level, 'parent_chunk_id', d.parent_chunk_id) END
    FROM drafted d
    WHERE NOT d.is_new AND c.id = d.id AND c.live AND {CHUNKS_OF_MONTH}
        AND (c.superseded OR c.next_place IS NOT NULL OR {_PLACE_CHANGES})"""

_MOVE_NOT_YET_LIVE = f"""
    UPDATE document_chunks c SET position = d.position, section_title = d.section_title,
        hierarchy_level = d.hierarchy_level, parent_chunk_id = d.parent_chunk_id, updated_at = now(),
        embedding_status = CASE WHEN c.embedding_status = {EmbeddingStatus.FAILED.sql}
            THEN {EmbeddingStatus.PENDING.sql} ELSE c.embedding_status END
    FROM drafted d
    WHERE NOT d.is_new AND c.id = d.id AND NOT c.live AND {CHUNKS_OF_MONTH}"""

_DELETE_NOT_YET_LIVE = f"""
    DELETE FROM document_chunks c
    WHERE c.document_id = ANY(%(documents)s) AND NOT c.live AND {CHUNKS_OF_MONTH}
        AND NOT EXISTS (SELECT FROM drafted WHERE drafted.id = c.id)"""

_SUPERSEDE_LIVE = f"""
    UPDATE document_chunks c SET superseded = true, next_place = NULL, updated_at = now()
    WHERE c.document_id = ANY(%(documents)s) AND c.live AND NOT c.superseded AND {CHUNKS_OF_MONTH}
        AND NOT EXISTS (SELECT FROM drafted WHERE drafted.id = c.id)"""


def store_next_version(
    connection: Connection, month: Month, documents: Sequence[DocumentKey], rows: Sequence[ChunkRow]
) -> tuple[int, int]:
    """Store the next version of these documents of a month beside the live one.

    `rows` are all the chunks of the next versions. A chunk that is not among them is deleted at once if it is not
    live yet, else superseded. Documents that were deleted meanwhile are left out. Returns the numbers of chunks added,
    and deleted or superseded.
    """
    connection.execute(_CREATE_DRAFTED)
    columns = [field.name for field in fields(ChunkRow)]
    with connection.cursor().copy(f"COPY drafted ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(attrgetter(*columns)(row))
    parameters = {"documents": [document for document, _ in documents], **month_bounds(month)}
    connection.execute(_LEAVE_OUT_DELETED, parameters)
    added = connection.execute(_ADD_NEW).rowcount
    connection.execute(_NOTE_NEXT_PLACE_OF_LIVE, parameters)
    connection.execute(_MOVE_NOT_YET_LIVE, parameters)
    dropped = connection.execute(_DELETE_NOT_YET_LIVE, parameters).rowcount
    dropped += connection.execute(_SUPERSEDE_LIVE, parameters).rowcount
    connection.execute("DELETE FROM drafted")
    return added, dropped


def _without_a_vector(kinds: Sequence[str], *statuses: EmbeddingStatus) -> str:
    """What selects a month's chunks with these statuses that miss a vector of one of these kinds."""
    missing = " OR ".join(f"c.{column(kind)} IS NULL" for kind in VECTOR_KINDS if kind in kinds)
    return f"""
        FROM document_chunks c
        JOIN documents d ON d.id = c.document_id AND d.created_at = c.document_created_at
        JOIN source_items i ON i.document_id = d.id
        WHERE c.embedding_status IN {one_of(*statuses)} AND NOT c.superseded
            AND d.processing_status NOT IN {one_of(*TO_CHUNK)}
            AND {DOCUMENTS_OF_MONTH} AND {CHUNKS_OF_MONTH}
            AND ({missing})"""


def claim(
    connection: Connection,
    month: Month,
    kinds: Sequence[str],
    limit: int,
    after: ChunkToEmbed | None,
    *,
    shared: bool = False,
) -> list[ChunkToEmbed]:
    """Return the next chunks of a month without a vector of one of these kinds.

    They are ordered by document, position and id (a chunk that stays can have the position of a new one until the version
    is live) and begin after `after`. The caller holds the month's lock, so nobody else takes them and nothing is written,
    which would cost a version of each row. With `shared`, the month's run has several workers that claim: their chunks
    become `processing`, and those that another one has or is claiming now are skipped.
    """
    # A batch is to be read in the order of the index from where the last one ended, and the planner does so if it sees
    # what is asked: conditions that are not always the same are no parameters, and it plans each time.
    beyond = (
        "AND (c.document_id, c.position, c.id) > (%(document)s, %(position)s, %(chunk)s) AND d.id >= %(document)s"
        if after
        else ""
    )
    statuses = (EmbeddingStatus.PENDING,) if shared else TO_EMBED
    selected = f"""{_without_a_vector(kinds, *statuses)} {beyond} ORDER BY c.document_id, c.position, c.id LIMIT %(limit)s"""
    query = _CLAIM_BESIDE_OTHERS.format(selected=selected) if shared else f"SELECT {_TO_EMBED} {selected}"
    parameters = {
        **month_bounds(month),
        "document": after and after.document_id,
        "position": after and after.position,
        "chunk": after and after.id,
        "limit": limit,
    }
    chunks = objects(connection, ChunkToEmbed, query, parameters, prepare=False)
    return sorted(chunks, key=lambda chunk: (chunk.document_id, chunk.position, chunk.id))


def reopen_incomplete(
    connection: Connection, month: Month, documents: Sequence[UUID], built: Sequence[str]
) -> int:
    """Make completed chunks of these documents of a month pending that miss a kind of vectors in `built`.

    Such as one that was added to `RAG_VECTORS` after they were written. Returns the number of documents.
    """
    return connection.execute(
        f"""
        WITH reopened AS (
            UPDATE document_chunks c SET embedding_status = {EmbeddingStatus.PENDING.sql}, updated_at = now()
            WHERE c.document_id = ANY(%(documents)s) AND {CHUNKS_OF_MONTH}
                AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql} AND NOT c.superseded
                AND ({_MISSES_A_VECTOR})
            RETURNING c.document_id
        )
        UPDATE documents d SET indexing_status = {IndexingStatus.INDEXING.sql}, updated_at = now()
        WHERE d.id IN (SELECT document_id FROM reopened)
            AND d.indexing_status = {IndexingStatus.COMPLETED.sql} AND {DOCUMENTS_OF_MONTH}
        """,
        {"documents": list(documents), "built": list(built), **month_bounds(month)},
    ).rowcount


def announce_multi(connection: Connection, month: Month, counts: Sequence[tuple[UUID, int]]) -> None:
    """Store the number of multi-vectors about to be written, so that a crash leaves none unknown."""
    connection.execute(
        f"""
        UPDATE document_chunks c SET multi_vector_count = greatest(c.multi_vector_count, n.count)
        FROM unnest(%(ids)s::uuid[], %(counts)s::int[]) AS n(id, count)
        WHERE c.id = n.id AND {CHUNKS_OF_MONTH} AND c.multi_vector_count < n.count
        """,
        {"ids": [chunk for chunk, _ in counts], "counts": [count for _, count in counts], **month_bounds(month)},
    )


def map_vectors(
    connection: Connection,
    month: Month,
    chunks: Sequence[ChunkToEmbed],
    *,
    kinds: Sequence[str],
    built: Sequence[str],
    embedder: str,
    multi_counts: Sequence[int],
) -> None:
    """Write the ids of the vectors of these kinds to the chunks' rows.

    A chunk becomes `completed` once it has a vector of every kind in `built`, those of `RAG_VECTORS`. `embedder`
    is the fingerprint of the embedder, `multi_counts` the number of multi-vectors of each chunk.
    """
    connection.execute(
        f"""
        UPDATE document_chunks c SET
            {_SET_MAPPED_IDS},
            multi_vector_count = CASE WHEN 'multi' = ANY(%(kinds)s) THEN n.count ELSE c.multi_vector_count END,
            embedding_status = CASE WHEN {_HAS_EVERY_VECTOR}
                THEN {EmbeddingStatus.COMPLETED.sql} ELSE {EmbeddingStatus.PENDING.sql} END,
            embedding_error = NULL, embedded_at = now(), updated_at = now(), embedder = %(embedder)s,
            stored_position = n.position, stored_language = n.language
        FROM unnest(%(ids)s::uuid[], %(positions)s::int[], %(languages)s::text[], %(counts)s::int[])
            AS n(id, position, language, count)
        WHERE c.id = n.id AND {CHUNKS_OF_MONTH}
        """,
        {
            **_places(chunks),
            "counts": list(multi_counts),
            "kinds": list(kinds),
            "built": list(built),
            "embedder": embedder,
            **month_bounds(month),
        },
    )


def pending_up_to(connection: Connection, month: Month, kinds: Sequence[str], limit: int | None = None) -> int:
    """Return how many chunks `claim` would find, claimed ones included; counts no further than `limit`, if one is given."""
    if limit is None:
        let_read_a_month(connection)
    counted: int = value(
        connection,
        f"SELECT count(*) FROM (SELECT {_without_a_vector(kinds, *TO_EMBED)} LIMIT %(limit)s) counted",
        {"limit": limit, **month_bounds(month)},
    )
    return counted


def release(connection: Connection, month: Month) -> int:
    """Make the claimed chunks of a month pending; return their number.

    The caller holds the month's lock, so they are its own.
    """
    return connection.execute(
        f"""
        UPDATE document_chunks c SET embedding_status = {EmbeddingStatus.PENDING.sql}, updated_at = now()
        WHERE c.embedding_status = {EmbeddingStatus.PROCESSING.sql} AND {CHUNKS_OF_MONTH}
        """,
        month_bounds(month),
    ).rowcount


def set_status(
    connection: Connection, month: Month, ids: Sequence[UUID], status: EmbeddingStatus, error: str | None = None
) -> None:
    """Set the embedding status of chunks, with the error of a failed one."""
    connection.execute(
        f"""
        UPDATE document_chunks c SET embedding_status = %(status)s, embedding_error = %(error)s, updated_at = now()
        WHERE c.id = ANY(%(ids)s) AND {CHUNKS_OF_MONTH}
        """,
        {"status": status, "error": error, "ids": list(ids), **month_bounds(month)},
    )


_ITS_CHUNKS = f"c.document_id = d.id AND {CHUNKS_OF_MONTH}"
_OF_READY = f"c.document_id = ANY(%(documents)s) AND {CHUNKS_OF_MONTH}"

_READY_TO_SWITCH = f"""
    SELECT d.id FROM documents d
    WHERE d.indexing_status IN {one_of(*TO_INDEX)} AND d.processing_status NOT IN {one_of(*TO_CHUNK)}
        AND {DOCUMENTS_OF_MONTH}
        AND (%(documents)s::uuid[] IS NULL OR d.id = ANY(%(documents)s))
        AND NOT EXISTS (
            SELECT FROM document_chunks c WHERE {_ITS_CHUNKS}
                AND NOT c.superseded AND c.embedding_status <> {EmbeddingStatus.COMPLETED.sql})
        -- Leave out the switched ones, whose rows in the collections only have to follow.
        AND (EXISTS (
                SELECT FROM document_chunks c WHERE {_ITS_CHUNKS}
                    AND (c.superseded OR NOT c.live OR c.next_place IS NOT NULL))
            OR NOT EXISTS (SELECT FROM document_chunks c WHERE {_ITS_CHUNKS} AND {_MOVED}))
    ORDER BY d.id LIMIT %(limit)s FOR UPDATE OF d"""

_DELETE_SUPERSEDED = f"DELETE FROM document_chunks c WHERE {_OF_READY} AND c.superseded"

_GO_LIVE_AND_COUNT_TERMS = f"""
    WITH switched AS (
        UPDATE document_chunks c SET live = true, source = i.source, updated_at = now()
        FROM source_items i
        WHERE {_OF_READY} AND NOT c.live AND i.document_id = c.document_id
        RETURNING c.content_words, c.source
    )
    INSERT INTO term_statistics AS t (term, month, source, chunks)
    SELECT word.term, %(month)s, switched.source, count(*) FROM switched
    CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(content_words, '')) || ARRAY['']) AS word(term)
    GROUP BY word.term, switched.source ORDER BY word.term, switched.source
    ON CONFLICT (term, source, month) DO UPDATE SET chunks = t.chunks + excluded.chunks"""

_TAKE_NEXT_PLACE = f"""
    UPDATE document_chunks c SET
        position = (c.next_place->>'position')::int, section_title = c.next_place->>'section_title',
        hierarchy_level = (c.next_place->>'hierarchy_level')::int,
        parent_chunk_id = (c.next_place->>'parent_chunk_id')::uuid, next_place = NULL, updated_at = now()
    WHERE {_OF_READY} AND c.next_place IS NOT NULL"""

_COMPLETE_SWITCHED = f"""
    UPDATE documents d SET
        indexing_status = CASE WHEN EXISTS (SELECT FROM document_chunks c WHERE {_ITS_CHUNKS} AND {_MOVED})
            THEN {IndexingStatus.INDEXING.sql} ELSE {IndexingStatus.COMPLETED.sql} END,
        failures = 0, retry_at = NULL, indexed_at = now(), updated_at = now()
    WHERE d.id = ANY(%(documents)s) AND {DOCUMENTS_OF_MONTH}"""


def switch(
    connection: Connection, month: Month, documents: Sequence[UUID] | None = None, limit: int = 200
) -> list[UUID]:
    """Make the next version of documents live whose chunks are all complete; return the ids of these documents.

    In one transaction the superseded chunks are deleted (their vectors go to the outbox), those that stay take
    their new place, the new ones become live and are counted in `term_statistics`. A document is `completed`
    unless the rows of its chunks in the collections have to follow (see `moved_chunks`). Switches at most `limit`
    documents.
    """
    bounds = month_bounds(month)
    wanted = None if documents is None else list(documents)
    ready = values(connection, _READY_TO_SWITCH, {**bounds, "documents": wanted, "limit": limit})
    if ready:
        parameters = {**bounds, "month": month.start.date(), "documents": ready}
        connection.execute(_DELETE_SUPERSEDED, parameters)
        connection.execute(_GO_LIVE_AND_COUNT_TERMS, parameters)
        connection.execute(_TAKE_NEXT_PLACE, parameters)
        connection.execute(_COMPLETE_SWITCHED, parameters)
        index_epochs.advance(connection, month)
    return ready


def mark_failed_documents(connection: Connection, month: Month) -> int:
    """Mark documents with a failed chunk as failed, their old version still live; return their number."""
    return connection.execute(
        f"""
        UPDATE documents d SET indexing_status = {IndexingStatus.FAILED.sql}, updated_at = now(),
            failures = failures + 1, retry_at = {RETRY_AT},
            error_message = format('%%s of %%s chunks could not be embedded, the first at position %%s: %%s',
                failed.count, d.chunk_count, failed.position, failed.error)
        FROM (
            SELECT document_id, document_created_at, count(*) AS count, min(position) AS position,
                (array_agg(embedding_error ORDER BY position))[1] AS error
            FROM document_chunks
            WHERE embedding_status = {EmbeddingStatus.FAILED.sql} AND NOT superseded
                AND {in_month("document_created_at")}
            GROUP BY 1, 2
        ) failed
        WHERE d.id = failed.document_id AND d.created_at = failed.document_created_at
            AND d.indexing_status IN {one_of(*TO_INDEX)}
            AND {DOCUMENTS_OF_MONTH}
        """,
        month_bounds(month),
    ).rowcount


def moved_chunks(connection: Connection, month: Month, limit: int) -> list[ChunkToEmbed]:
    """Return live chunks whose rows in the collections hold an old position or language; `text` is left empty."""
    return objects(
        connection,
        ChunkToEmbed,
        f"""
        SELECT c.id, c.document_id, c.document_created_at AS created_at, c.position, '' AS text,
            d.source_type, d.source_id, d.language
        FROM documents d
        JOIN document_chunks c ON c.document_id = d.id AND c.document_created_at = d.created_at
        WHERE d.indexing_status = {IndexingStatus.INDEXING.sql}
            AND c.live AND NOT c.superseded AND c.next_place IS NULL
            AND c.embedding_status = {EmbeddingStatus.COMPLETED.sql}
            AND {_MOVED}
            AND {DOCUMENTS_OF_MONTH}
            AND {CHUNKS_OF_MONTH}
        ORDER BY c.document_id, c.position LIMIT %(limit)s
        """,
        {**month_bounds(month), "limit": limit},
    )


def mark_positions_stored(connection: Connection, month: Month, chunks: Sequence[ChunkToEmbed]) -> None:
    """Record that the rows of these chunks in the collections hold their position and language."""
    connection.execute(
        f"""
        UPDATE document_chunks c SET stored_position = n.position, stored_language = n.language
        FROM unnest(%(ids)s::uuid[], %(positions)s::int[], %(languages)s::text[]) AS n(id, position, language)
        WHERE c.id = n.id AND {CHUNKS_OF_MONTH}
        """,
        {**_places(chunks), **month_bounds(month)},
    )


def multi_counts(connection: Connection, month: Month, ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of multi-vectors of each of these chunks."""
    rows = named(
        connection,
        f"""
        SELECT c.id, c.multi_vector_count FROM document_chunks c WHERE c.id = ANY(%(ids)s) AND {CHUNKS_OF_MONTH}
        """,
        {"ids": list(ids), **month_bounds(month)},
    )
    return {row.id: row.multi_vector_count for row in rows}


_DUE = f"c.live AND NOT c.superseded AND c.embedding_status <> {EmbeddingStatus.FAILED.sql}"
"""The chunk should have all kinds of vectors, also one that was added to `RAG_VECTORS` and is not built yet."""
_EXPECTED = {
    kind: f"count(*) FILTER (WHERE c.{column(kind)} IS NOT NULL OR {_DUE}) AS {kind}"
    for kind in ("dense", "sparse")
} | {
    # How many multi-vectors a chunk has is known only when it is embedded: at least one.
    "multi": f"""coalesce(sum(CASE WHEN c.{column("multi")} IS NOT NULL THEN c.multi_vector_count
        WHEN {_DUE} THEN greatest(c.multi_vector_count, 1) END), 0)::bigint AS multi"""
}


def expected_vectors(connection: Connection, month: Month) -> dict[str, int]:
    """Return a month's expected rows in the collections by kind, as if all kinds were built."""
    let_read_a_month(connection)
    (counts,) = dicts(
        connection,
        f"""
        SELECT {", ".join(_EXPECTED.values())} FROM document_chunks c WHERE {CHUNKS_OF_MONTH}
        """,
        month_bounds(month),
    )
    return counts


def _places(chunks: Sequence[ChunkToEmbed]) -> dict[str, list[Any]]:
    """The ids of chunks, with what their rows in the collections hold of them beside the vectors."""
    return {
        "ids": [chunk.id for chunk in chunks],
        "positions": [chunk.position for chunk in chunks],
        "languages": [chunk.language for chunk in chunks],
    }


def size_distribution(connection: Connection, month: Month) -> list[tuple[str, int]]:
    """Return (range of tokens, chunks) of a month in steps of 100 tokens, superseded chunks left out."""
    let_read_a_month(connection)
    rows = named(
        connection,
        f"""
        SELECT c.token_count / 100 * 100 AS low, count(*) AS chunks FROM document_chunks c
        WHERE NOT c.superseded AND {CHUNKS_OF_MONTH} GROUP BY 1 ORDER BY 1
        """,
        month_bounds(month),
    )
    return [(f"{row.low} to {row.low + 99}", row.chunks) for row in rows]
