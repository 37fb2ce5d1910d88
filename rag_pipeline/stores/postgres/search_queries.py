"""The queries of a search: the live chunks among candidates, full-text search, and the statistics of shown chunks.

Every query names the months that it needs, so that the planner prunes the partitions of all others: to plan a
query over ten years of partitions takes longer than to run any of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, named, objects, values
from rag_pipeline.stores.postgres.document_chunks import CONTEXT
from rag_pipeline.stores.vector_ids import column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rag_pipeline.months import Month
    from rag_pipeline.stores.filters import Filters
    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class FoundChunk:
    """A live chunk, with what a search result shows of its document."""

    id: UUID
    document_id: UUID
    document_created_at: datetime
    source_type: str
    source_id: str
    source_url: str | None
    title: str
    language: str | None
    position: int
    section_title: str | None
    content: str
    multi_vector_count: int
    category: str | None = None
    tags: list[str] | None = None
    author: str | None = None
    context: str = ""
    """The line in front of what is embedded of it."""


_COLUMNS = f"""c.id, c.document_id, c.document_created_at, d.source_type, d.source_id, d.source_url, d.title,
    d.language, d.category, d.tags, d.author, c.position, c.section_title, c.content, {CONTEXT} AS context,
    CASE WHEN c.{column("multi")} IS NULL THEN 0 ELSE c.multi_vector_count END AS multi_vector_count"""

_OF_ITS_DOCUMENT = "d.id = c.document_id AND d.created_at = c.document_created_at"

_MATCHES = """(%(language)s::bpchar IS NULL OR d.language = %(language)s::bpchar)
    AND (%(source_type)s::text IS NULL OR d.source_type = %(source_type)s::text)
    AND (%(category)s::text IS NULL OR d.category = %(category)s::text)
    AND (%(author)s::text IS NULL OR d.author = %(author)s::text)
    AND (%(tags)s::text[] IS NULL OR d.tags @> %(tags)s::text[])"""

_OF_SOURCES = "(%(sources)s::uuid[] IS NULL OR {item}.source = ANY(%(sources)s::uuid[]))"
_ITS_ITEM_IS_OF_SOURCES = """(%(sources)s::uuid[] IS NULL OR EXISTS (
    SELECT FROM source_items i WHERE i.document_id = d.id AND i.source = ANY(%(sources)s::uuid[])))"""
"""Of a document `d`."""


def _conditions(filters: Filters, sources: Sequence[UUID] | None) -> dict[str, Any]:
    """The parameters of `_MATCHES` and `_OF_SOURCES`."""
    return {
        "language": filters.language,
        "source_type": filters.source_type,
        "category": filters.category,
        "author": filters.author,
        "tags": list(filters.tags) or None,
        "sources": None if sources is None else list(sources),
    }


_BETWEEN = """{column} >= coalesce(%(since)s::timestamptz, '-infinity')
    AND {column} < coalesce(%(until)s::timestamptz, 'infinity')"""
_OF_DAY_IN_ZONE = """
    CASE WHEN ({column} AT TIME ZONE 'UTC')::time = '00:00' THEN
        {column} >= coalesce(%(days_since)s::timestamptz, '-infinity')
        AND {column} < coalesce(%(days_until)s::timestamptz, 'infinity')
    ELSE {column} >= coalesce(%(moments_since)s::timestamptz, '-infinity')
        AND {column} < coalesce(%(moments_until)s::timestamptz, 'infinity') END"""


def _between(column: str, filters: Filters) -> str:
    """The condition of the filters' dates on a column; its parameters are `_dates`."""
    # Only where it is needed: the planner cannot tell how few rows have it.
    both = _BETWEEN if filters.timezone is None else f"{_BETWEEN} AND {_OF_DAY_IN_ZONE}"
    return both.format(column=column)


def _dates(filters: Filters, first: Month | None = None, last: Month | None = None) -> dict[str, Any]:
    """The parameters of `_between`, from the first to the last month."""
    return {
        "since": max(filter(None, (filters.since, first.start if first else None)), default=None),
        "until": min(filter(None, (filters.until, last.end if last else None)), default=None),
        "days_since": filters.of_days.since,
        "days_until": filters.of_days.until,
        "moments_since": filters.of_moments.since,
        "moments_until": filters.of_moments.until,
    }


def documents_of_sources(
    connection: Connection, filters: Filters, sources: Sequence[UUID], limit: int
) -> list[UUID]:
    """Return documents of these sources, in the range of the filters' dates, whatever their state: at most `limit`."""
    return values(
        connection,
        f"""
        SELECT i.document_id FROM source_items i
        WHERE i.source = ANY(%(sources)s) AND {_between("i.document_created_at", filters)} LIMIT %(limit)s
        """,
        {"sources": list(sources), **_dates(filters), "limit": limit},
    )


def matching_documents(
    connection: Connection,
    filters: Filters,
    sources: Sequence[UUID] | None,
    first: Month,
    last: Month,
    limit: int,
) -> list[UUID]:
    """Return documents from the first to the last month that match the filters and are of these sources: at most `limit`.

    As in `fulltext`, ask for a few months at a time.
    """
    return values(
        connection,
        f"""
        SELECT d.id FROM documents d
        WHERE {_MATCHES} AND {_between("d.created_at", filters)}
            AND {_ITS_ITEM_IS_OF_SOURCES}
        LIMIT %(limit)s
        """,
        {
            **_conditions(filters, sources),
            **_dates(filters, first, last),
            "limit": limit,
        },
    )


def hydrate(
    connection: Connection,
    candidates: Mapping[UUID, UUID],
    filters: Filters,
    sources: Sequence[UUID] | None = None,
) -> dict[UUID, FoundChunk]:
    """Return the candidates that are live and whose documents match the filters, by chunk id.

    `candidates` maps a chunk's id to its document's; `sources` are those whose documents may be found, None all. Chunks of a version that is not live yet, and deleted ones
    that Milvus still holds are left out.
    """
    if not candidates:
        return {}
    # First the exact moments, from a table without partitions: Milvus holds only their seconds, and for a range
    # the planner would open every month between the first and the last.
    items = named(
        connection,
        f"""
        SELECT i.document_id, i.document_created_at FROM source_items i
        WHERE i.document_id = ANY(%(documents)s) AND {_between("i.document_created_at", filters)}
            AND {_OF_SOURCES.format(item="i")}
        """,
        {
            "documents": list(set(candidates.values())),
            **_dates(filters),
            **_conditions(filters, sources),
        },
    )
    if not items:
        return {}
    documents = {item.document_id for item in items}
    found = objects(
        connection,
        FoundChunk,
        f"""
        SELECT {_COLUMNS} FROM document_chunks c JOIN documents d ON {_OF_ITS_DOCUMENT}
        WHERE c.id = ANY(%(chunks)s) AND d.id = ANY(%(documents)s) AND c.live AND {_MATCHES}
            AND c.document_created_at = ANY(%(moments)s) AND d.created_at = ANY(%(moments)s)
        """,
        {
            "chunks": [chunk for chunk, document in candidates.items() if document in documents],
            "documents": list(documents),
            "moments": list({item.document_created_at for item in items}),
            **_conditions(filters, sources),
        },
    )
    return {chunk.id: chunk for chunk in found}


def fulltext(
    connection: Connection,
    words: Mapping[str, float],
    filters: Filters,
    limit: int,
    first: Month,
    last: Month,
    sources: Sequence[UUID] | None = None,
) -> list[tuple[FoundChunk, float]]:
    """Return the live chunks from the first to the last month that contain any of the words, each with its score.

    Best first. Every index of every month is locked until the end of the transaction, and PostgreSQL's table of locks
    is shared by all sessions: ask for a few months at a time, each in a transaction of its own.

    `words` maps a word, as PostgreSQL writes it (`term_statistics.CountedWord.lexeme`), to its weight. The score is the sum over the
    words of weight × `ts_rank` (which grows with the word's occurrences and levels off), divided by
    1 + ln(1 + the number of different words in the chunk). `ts_rank` alone does not know which words are rare.
    """
    if not words:
        return []
    # A word consists of letters and digits, so quoting it makes it a single lexeme.
    lexemes = [f"'{word}'" for word in words]
    parameters: dict[str, Any] = {
        "any": " | ".join(lexemes),
        "lexemes": lexemes,
        "weights": list(words.values()),
        **_conditions(filters, sources),
        **_dates(filters, first, last),
        "limit": limit,
    }
    rows = dicts(
        connection,
        f"""
        SELECT {_COLUMNS}, ranked.score / (1 + ln(1 + length(c.content_words))) AS score
        FROM document_chunks c JOIN documents d ON {_OF_ITS_DOCUMENT}
        CROSS JOIN LATERAL (
            SELECT sum(w.weight * ts_rank('{{1, 1, 1, 1}}', c.content_words, w.lexeme::tsquery)) AS score
            FROM unnest(%(lexemes)s::text[], %(weights)s::float8[]) AS w(lexeme, weight)
        ) ranked
        WHERE c.live AND c.content_words @@ %(any)s::tsquery AND {_MATCHES}
            AND {_between("c.document_created_at", filters)} AND {_between("d.created_at", filters)}
            AND {_OF_SOURCES.format(item="c")}
            -- The item decides; the chunk's own column is only read sooner.
            AND {_ITS_ITEM_IS_OF_SOURCES}
        ORDER BY score DESC, c.document_id, c.position LIMIT %(limit)s
        """,
        parameters,
    )
    scores = [float(row.pop("score")) for row in rows]
    return [(FoundChunk(**row), score) for row, score in zip(rows, scores, strict=True)]


@dataclass(frozen=True)
class Shown:
    """A chunk that searches have shown: how often, and the score of the last time."""

    id: UUID
    document_created_at: datetime
    score: float
    times: int = 1


def record_search(connection: Connection, shown: Sequence[Shown]) -> int:
    """Store the score of each chunk that was shown and count it; return the number of chunks stored.

    A row that another transaction is writing is skipped, so that a search never waits for an ingest. The lock it
    takes does not block rows that refer to the chunk.
    """
    # Losing the latest counts in a crash is cheaper than making every search wait for the disk.
    connection.execute("SET LOCAL synchronous_commit = off")
    connection.execute("SET LOCAL lock_timeout = '200ms'")  # A migration can hold the whole table.
    return connection.execute(
        """
        UPDATE document_chunks c
        SET last_search_score = free.score, search_count = coalesce(c.search_count, 0) + free.times
        FROM (
            SELECT f.id, f.document_created_at, shown.score, shown.times
            FROM unnest(%(ids)s::uuid[], %(scores)s::float8[], %(times)s::int[]) AS shown(id, score, times)
            JOIN document_chunks f ON f.id = shown.id
            WHERE f.document_created_at = ANY(%(moments)s)
            FOR NO KEY UPDATE OF f SKIP LOCKED
        ) free
        WHERE c.id = free.id AND c.document_created_at = free.document_created_at
            AND c.document_created_at = ANY(%(moments)s)
        """,
        {
            "ids": [one.id for one in shown],
            "scores": [one.score for one in shown],
            "times": [one.times for one in shown],
            "moments": list({one.document_created_at for one in shown}),
        },
    ).rowcount
