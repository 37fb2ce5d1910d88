"""`documents`: one row per item that could be read, with its content as Markdown and the state of its chunks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import sql

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import generations
from rag_pipeline.stores.postgres.database import named, objects, value, values
from rag_pipeline.stores.postgres.month_bounds import DOCUMENTS_OF_MONTH, in_month, month_bounds
from rag_pipeline.stores.postgres.statuses import (
    ITEM_WORK,
    TO_CHUNK,
    TO_INDEX,
    EmbeddingStatus,
    IndexingStatus,
    ProcessingStatus,
    one_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class DocumentRow:
    """A parsed document, ready to be stored."""

    id: UUID
    created_at: datetime
    title: str
    content: str
    source_type: str
    source_id: str
    source_url: str | None
    author: str | None
    language: str
    category: str | None
    tags: list[str]


@dataclass(frozen=True)
class DocumentText:
    """A document as the chunker needs it."""

    id: UUID
    created_at: datetime
    source: str
    """Its source_id, for messages."""
    title: str
    content: str
    chunked_with: str | None
    """The version and settings of the chunker that made its current chunks."""


@dataclass(frozen=True)
class ChunkedDocument:
    """A document whose chunks are stored, with its words and counts."""

    id: UUID
    created_at: datetime
    words: str
    """The document's words, separated by spaces, for the full-text index."""
    word_count: int
    chunk_count: int
    chunked_with: str


_MOST_SAMPLED_CHARS = 500_000

_COLUMNS = [field.name for field in fields(DocumentRow)]

_REPLACE = f"""ON CONFLICT (id, created_at) DO UPDATE SET
    source = excluded.source, title = excluded.title, content = excluded.content, source_url = excluded.source_url,
    author = excluded.author, language = excluded.language, category = excluded.category,
    tags = excluded.tags, char_count = excluded.char_count,
    processing_status = {ProcessingStatus.PROCESSING.sql}, indexing_status = {IndexingStatus.PENDING.sql},
    error_message = NULL, failures = 0, retry_at = NULL, updated_at = now()"""


def upsert(connection: Connection, rows: Sequence[DocumentRow]) -> None:
    """Store documents as `processing`, to be chunked next. Their old version stays searchable."""
    connection.execute(
        """
        CREATE TEMPORARY TABLE IF NOT EXISTS parsed (
            id UUID, created_at TIMESTAMPTZ, title TEXT, content TEXT, source_type TEXT, source_id TEXT,
            source_url TEXT, author TEXT, language TEXT, category TEXT, tags TEXT[]
        ) ON COMMIT DELETE ROWS
        """
    )
    columns = ", ".join(_COLUMNS)
    with connection.cursor().copy(f"COPY parsed ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(attrgetter(*_COLUMNS)(row))
    connection.execute(
        f"""
        INSERT INTO documents AS d ({columns}, source, char_count, processing_status)
        SELECT {", ".join(f"p.{column}" for column in _COLUMNS)}, i.source, length(p.content),
            {ProcessingStatus.PROCESSING.sql}
        -- An item that was deleted since it was read has no key any more and needs no document.
        FROM parsed p JOIN source_items i ON i.document_id = p.id
        {_REPLACE}
        """
    )
    generations.note_parsed(connection)
    connection.execute("DELETE FROM parsed")


def copy_from(connection: Connection, schema: str, month: Month, documents: Sequence[UUID]) -> None:
    """Store these documents of a month as `processing`, as the tables in another schema have them."""
    columns = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
    connection.execute(
        sql.SQL(
            """
            INSERT INTO documents AS d ({columns}, source, char_count, processing_status)
            SELECT {stored}, i.source, o.char_count, {processing} FROM {other} o
            -- Locked, so that an item that is deleted now takes this document along.
            JOIN source_items i ON (i.source_type, i.source_id) = (o.source_type, o.source_id)
            WHERE o.id = ANY(%(documents)s) AND o.created_at >= %(start)s AND o.created_at < %(end)s
            ORDER BY i.source_type, i.source_id FOR KEY SHARE OF i
            {replace}
            """
        ).format(
            columns=columns,
            stored=sql.SQL(", ").join(sql.Identifier("o", column) for column in _COLUMNS),
            processing=sql.SQL(ProcessingStatus.PROCESSING.sql),
            other=sql.Identifier(schema, "documents"),
            replace=sql.SQL(_REPLACE),
        ),
        {"documents": list(documents), **month_bounds(month)},
    )


def quarantine(connection: Connection, failures: Sequence[tuple[UUID, datetime, str]]) -> None:
    """Mark documents whose newest bytes cannot be read, as (id, created_at, reason). Their old version stays.

    One that is not chunked yet still has to be: its content is the last that could be read, and its chunks are older.
    """
    connection.cursor().executemany(
        f"""
        UPDATE documents SET
            processing_status = {ProcessingStatus.FAILED.sql}, error_message = %s, updated_at = now()
        WHERE id = %s AND created_at = %s AND processing_status NOT IN {one_of(*TO_CHUNK)}
        """,
        [(reason, document_id, created_at) for document_id, created_at, reason in failures],
    )


def restore(connection: Connection, documents: Sequence[tuple[UUID, datetime]], chunker: str) -> None:
    """Release quarantined documents whose source has the stored version again.

    Those that another chunker has cut, or this one with other settings, are to be chunked again: `reopen_cut_otherwise`
    leaves quarantined ones alone.
    """
    cut = "chunked_with IS NOT DISTINCT FROM %(chunker)s"
    connection.cursor().executemany(
        f"""
        UPDATE documents SET
            processing_status = CASE WHEN {cut} THEN {ProcessingStatus.COMPLETED.sql}
                ELSE {ProcessingStatus.PROCESSING.sql} END,
            indexing_status = CASE WHEN {cut} THEN indexing_status ELSE {IndexingStatus.PENDING.sql} END,
            error_message = NULL, updated_at = now()
        WHERE id = %(id)s AND created_at = %(created_at)s AND processing_status = {ProcessingStatus.FAILED.sql}
        """,
        [{"id": document, "created_at": created_at, "chunker": chunker} for document, created_at in documents],
    )


def to_chunk(
    connection: Connection, month: Month, limit: int, max_chars: int, after: UUID | None = None
) -> list[DocumentText]:
    """Return the next documents of a month to chunk, by id: at most `limit`, about `max_chars` characters in all."""
    return objects(
        connection,
        DocumentText,
        f"""
        SELECT id, created_at, source_id AS source, title, content, chunked_with FROM (
            SELECT *, sum(char_count) OVER (ORDER BY id) - char_count AS before
            FROM (
                SELECT id, created_at, source_id, title, content, chunked_with, char_count FROM documents
                WHERE processing_status IN {one_of(*TO_CHUNK)} AND {in_month("created_at")}
                    {"AND id > %(after)s" if after else ""}
                ORDER BY id LIMIT %(limit)s
            ) next
        ) counted WHERE before < %(chars)s ORDER BY id
        """,
        {**month_bounds(month), "limit": limit, "chars": max_chars, "after": after},
        prepare=False,  # so that it begins where the last batch ended: see `document_chunks.claim`
    )


def mark_chunked(connection: Connection, documents: Sequence[ChunkedDocument]) -> None:
    """Record that the chunks of these documents are stored and their vectors are next."""
    connection.cursor().executemany(
        f"""
        UPDATE documents SET
            processing_status = {ProcessingStatus.COMPLETED.sql}, indexing_status = {IndexingStatus.INDEXING.sql},
            error_message = NULL,
            content_words = to_tsvector('japanese', %s), word_count = %s, chunk_count = %s, chunked_with = %s,
            updated_at = now()
        WHERE id = %s AND created_at = %s
        """,
        [(d.words, d.word_count, d.chunk_count, d.chunked_with, d.id, d.created_at) for d in documents],
    )


def next_by_id(
    connection: Connection, month: Month, limit: int, max_chunks: int, after: UUID | None = None
) -> list[UUID]:
    """Return the next documents of a month by id: at most `limit`, with about `max_chunks` chunks in all."""
    return values(
        connection,
        f"""
        SELECT id FROM (
            SELECT id, sum(chunks) OVER (ORDER BY id) - chunks AS before
            FROM (
                SELECT id, coalesce(chunk_count, 0) AS chunks FROM documents
                WHERE {in_month("created_at")} {"AND id > %(after)s" if after else ""} ORDER BY id LIMIT %(limit)s
            ) next
        ) counted WHERE before < %(chunks)s ORDER BY id
        """,
        {**month_bounds(month), "limit": limit, "chunks": max_chunks, "after": after},
    )


def reopen_cut_otherwise(connection: Connection, month: Month, documents: Sequence[UUID], chunker: str) -> int:
    """Have those of these documents of a month chunked again that another chunker, or other settings of it, have cut."""
    return connection.execute(
        f"""
        UPDATE documents d SET processing_status = {ProcessingStatus.PROCESSING.sql},
            indexing_status = {IndexingStatus.PENDING.sql}, updated_at = now()
        WHERE d.id = ANY(%(documents)s) AND {DOCUMENTS_OF_MONTH}
            AND d.processing_status = {ProcessingStatus.COMPLETED.sql}
            AND d.chunked_with IS DISTINCT FROM %(chunker)s
        """,
        {"documents": list(documents), "chunker": chunker, **month_bounds(month)},
    ).rowcount


def _of_sources(document: str) -> str:
    """The condition that a document is of one of the sources that are named, if any are."""
    return f"""(%(names)s::text[] IS NULL OR EXISTS (
        SELECT FROM source_items i JOIN sources s ON s.id = i.source
        WHERE i.document_id = {document} AND s.name = ANY(%(names)s)))"""


def retry_failed(connection: Connection, limit: int, sources: Sequence[str] | None = None) -> int:
    """Make failed chunks of failed documents, of all sources or the named ones, pending.

    Of up to `limit` documents, whose number is returned.
    """
    return _retry(
        connection,
        f"{_of_sources('d.id')} LIMIT %(limit)s",
        {"names": None if sources is None else list(sources), "limit": limit},
    )


def retry_failed_chunks(connection: Connection, limit: int, sources: Sequence[str] | None = None) -> int:
    """Make up to `limit` failed chunks pending whose run was killed before it marked their documents as failed.

    Of all sources or the named ones. Returns the number of chunks.
    """
    return connection.execute(
        f"""
        UPDATE document_chunks c SET
            embedding_status = {EmbeddingStatus.PENDING.sql}, embedding_error = NULL, updated_at = now()
        FROM (
            SELECT c.id, c.document_created_at FROM document_chunks c
            JOIN documents d ON d.id = c.document_id AND d.created_at = c.document_created_at
            WHERE c.embedding_status = {EmbeddingStatus.FAILED.sql} AND NOT c.superseded
                AND d.indexing_status <> {IndexingStatus.FAILED.sql} AND {_of_sources("d.id")}
            LIMIT %(limit)s
        ) failed
        WHERE c.id = failed.id AND c.document_created_at = failed.document_created_at
        """,
        {"names": None if sources is None else list(sources), "limit": limit},
    ).rowcount


def retry_due(connection: Connection, limit: int) -> int:
    """Make failed chunks of documents due for a retry (see `RETRY_AT`) pending; return the number of documents."""
    return _retry(connection, "d.retry_at <= now() ORDER BY d.retry_at LIMIT %(limit)s", {"limit": limit})


def _retry(connection: Connection, which: str, parameters: Mapping[str, Any]) -> int:
    """Make failed chunks of failed documents pending; return the number of documents. The rest is SQL."""
    due = named(
        connection,
        f"""
        UPDATE documents d SET
            indexing_status = {IndexingStatus.INDEXING.sql}, error_message = NULL, updated_at = now()
        FROM (
            SELECT d.id, d.created_at FROM documents d
            WHERE d.indexing_status = {IndexingStatus.FAILED.sql} AND {which}
        ) due
        WHERE d.id = due.id AND d.created_at = due.created_at RETURNING d.id, d.created_at
        """,
        parameters,
    )
    for month in {Month.of(document.created_at) for document in due}:
        connection.execute(
            f"""
            UPDATE document_chunks SET
                embedding_status = {EmbeddingStatus.PENDING.sql}, embedding_error = NULL, updated_at = now()
            WHERE document_id = ANY(%(documents)s) AND embedding_status = {EmbeddingStatus.FAILED.sql}
                AND NOT superseded AND {in_month("document_created_at")}
            """,
            {
                "documents": [document.id for document in due if document.created_at in month],
                **month_bounds(month),
            },
        )
    return len(due)


def months_with_work(connection: Connection) -> list[Month]:
    """Return the months with unfinished items, documents or chunks, oldest first."""
    first = "SELECT date_trunc('month', min(document_created_at) AT TIME ZONE 'UTC') AS month FROM source_items"
    months = values(
        connection,
        # From each month of items to the next one, by their index, and not through all items.
        f"""
        WITH RECURSIVE of_items AS (
            {first} WHERE state IN {one_of(*ITEM_WORK)}
            UNION ALL
            SELECT following.month FROM of_items CROSS JOIN LATERAL (
                {first} WHERE state IN {one_of(*ITEM_WORK)}
                    AND document_created_at >= (of_items.month + interval '1 month') AT TIME ZONE 'UTC'
            ) following WHERE of_items.month IS NOT NULL
        )
        SELECT to_char(month, 'YYYY-MM') FROM of_items WHERE month IS NOT NULL
        UNION
        SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM documents
        WHERE processing_status IN {one_of(*TO_CHUNK)} OR indexing_status IN {one_of(*TO_INDEX)}
        ORDER BY 1
        """,
    )
    return [Month.parse(month) for month in months]


def amount_of_work(connection: Connection, months: Sequence[Month], most: int) -> dict[Month, int]:
    """Return the number of unfinished items and documents of each of these months; those with more count as `most`."""
    rows = named(
        connection,
        f"""
        SELECT month, least(of_items.number + of_documents.number, %(most)s) AS amount
        FROM unnest(%(months)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS m (month, first, next)
        CROSS JOIN LATERAL (
            SELECT count(*) AS number FROM (
                SELECT FROM source_items WHERE state IN {one_of(*ITEM_WORK)}
                    AND document_created_at >= first AND document_created_at < next LIMIT %(most)s
            ) few
        ) of_items
        CROSS JOIN LATERAL (
            SELECT count(*) AS number FROM (
                SELECT FROM documents WHERE created_at >= first AND created_at < next
                    AND (processing_status IN {one_of(*TO_CHUNK)} OR indexing_status IN {one_of(*TO_INDEX)})
                LIMIT %(most)s
            ) few
        ) of_documents
        """,
        {
            "months": [str(month) for month in months],
            "starts": [month.start for month in months],
            "ends": [month.end for month in months],
            "most": most,
        },
    )
    return {Month.parse(row.month): row.amount for row in rows}


def months_unfinished(connection: Connection) -> list[Month]:
    """Return the months with documents that are to be chunked or indexed, oldest first, whatever the sources have."""
    months = values(
        connection,
        f"""
        SELECT DISTINCT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM documents
        WHERE processing_status IN {one_of(*TO_CHUNK)} OR indexing_status IN {one_of(*TO_INDEX)}
        ORDER BY 1
        """,
    )
    return [Month.parse(month) for month in months]


def unfinished(connection: Connection) -> int:
    """Return the number of documents that are to be chunked or indexed."""
    return value(
        connection,
        f"""
        SELECT count(*) FROM documents
        WHERE processing_status IN {one_of(*TO_CHUNK)} OR indexing_status IN {one_of(*TO_INDEX)}
        """,
    )


def work_digest(connection: Connection, month: Month) -> str:
    """Return a digest of a month's pending work: it keys a run, so that the same work is not requested twice."""
    # A sum of hashes, whatever their order: a text of all rows would be sorted and kept in memory at each call.
    return value(
        connection,
        f"""
        SELECT md5(concat_ws('|',
            (SELECT {_sum_of_hashes("source_type, source_id, state, seen_fingerprint, seen_recipe")}
             FROM source_items WHERE state IN {one_of(*ITEM_WORK)}
                AND {in_month("document_created_at")}),
            (SELECT {_sum_of_hashes("id, processing_status, indexing_status, updated_at")}
             FROM documents WHERE {in_month("created_at")}
                AND (processing_status IN {one_of(*TO_CHUNK)} OR indexing_status IN {one_of(*TO_INDEX)}))
        ))
        """,
        month_bounds(month),
    )


def _sum_of_hashes(columns: str) -> str:
    return f"concat_ws('/', count(*), sum(hashtextextended(concat_ws('/', {columns}), 0)))"


def only_failed_in(connection: Connection, schema: str, limit: int) -> tuple[int, list[str]]:
    """Return (number, some source_ids) of documents that are searchable, but not in the generation of another schema.

    Because it has chunks of them that cannot be embedded, and no older version.
    """
    rows = named(
        connection,
        sql.SQL(
            """
            SELECT d.source_id, count(*) OVER () AS total FROM {other} o
            JOIN documents d ON d.id = o.id AND d.created_at = o.created_at
            WHERE o.indexing_status = {failed} AND d.indexing_status = {completed}
            ORDER BY d.source_id LIMIT {limit}
            """
        )
        .format(
            other=sql.Identifier(schema, "documents"),
            failed=sql.SQL(IndexingStatus.FAILED.sql),
            completed=sql.SQL(IndexingStatus.COMPLETED.sql),
            limit=sql.Literal(limit),
        )
        .as_string(connection),
    )
    return (rows[0].total if rows else 0), [row.source_id for row in rows]


@dataclass(frozen=True)
class Totals:
    """How much text the index has."""

    documents: int
    characters: int


def totals(connection: Connection) -> Totals:
    """Return the number of documents and of their characters."""
    query = "SELECT count(*) AS documents, coalesce(sum(char_count), 0)::bigint AS characters FROM documents"
    return objects(connection, Totals, query)[0]


def sample(connection: Connection, limit: int) -> list[DocumentText]:
    """Return about `limit` documents from everywhere, the same ones each time; all if there are not more."""
    share = min(100.0, 100.0 * limit / max(1, totals(connection).documents))
    return objects(
        connection,
        DocumentText,
        """
        SELECT id, created_at, source_id AS source, title, content, chunked_with
        FROM documents TABLESAMPLE BERNOULLI (%s) REPEATABLE (1) WHERE char_count <= %s
        """,
        (share, _MOST_SAMPLED_CHARS),
    )


def newest(connection: Connection, month: Month, limit: int) -> list[tuple[Any, ...]]:
    """Return (title, language, created_at, number of chunks, id) of a month's newest documents."""
    return connection.execute(
        f"""
        SELECT title, language, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), chunk_count, id
        FROM documents WHERE {in_month("created_at")} ORDER BY created_at DESC LIMIT %(limit)s
        """,
        {**month_bounds(month), "limit": limit},
    ).fetchall()


def existing(connection: Connection, source_ids: Sequence[str]) -> set[str]:
    """Return those of these source_ids whose documents are in the index."""
    # The keys of both tables begin with the type of the source, of which there are few.
    return set(
        values(
            connection,
            """
            SELECT i.source_id FROM (SELECT DISTINCT source_type FROM sources) s
            CROSS JOIN unnest(%s::text[]) AS named(id)
            JOIN source_items i ON i.source_type = s.source_type AND i.source_id = named.id
            JOIN documents d ON d.id = i.document_id AND d.created_at = i.document_created_at
            """,
            (list(source_ids),),
        )
    )
