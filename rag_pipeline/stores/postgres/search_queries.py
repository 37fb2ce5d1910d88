"""The queries of a search: the live chunks among candidates, full-text search, and the statistics of shown chunks.

Every query names the months that it needs, so that the planner prunes the partitions of all others: to plan a
query over ten years of partitions takes longer than to run any of these.

Whose documents an asker may not see are passed over in the indexes already, which know the source of each row, and
their months are not among those named: else the time of a search would tell what hidden documents have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import named, objects, values
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

# Of an item, which decides. The columns of documents and chunks are only read sooner, and `hydrate` comes after them.
_OF_SOURCE = "{row}.source = ANY(%(sources)s::uuid[])"
_OF_SOURCE_BY_GIN = "ARRAY[{row}.source] && %(sources)s::uuid[]"
"""The same, as the indexes of words and tags know it."""


def _all_of(*conditions: str) -> str:
    """All of these conditions that are not empty; empty if there is none."""
    return " AND ".join(filter(None, conditions))


def _not_by_index(condition: str) -> str:
    """A condition, if it is not empty, that no index is asked for: which one depends on what hidden documents have too."""
    return f"CASE WHEN {condition} THEN true ELSE false END" if condition else ""


_BY_INDEXES = {
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "0",
}
"""Has PostgreSQL ask the index that leaves out most, whatever that costs, and not read rows of all sources one after the
other: it would where many rows have what is asked for, and counts hidden ones among them."""


def _plan_by_indexes(connection: Connection) -> None:
    """Have the rest of the transaction planned so."""
    connection.execute(
        "SELECT set_config(name, setting, true) FROM unnest(%s::text[], %s::text[]) AS s(name, setting)",
        (list(_BY_INDEXES), list(_BY_INDEXES.values())),
    )


def _matches(filters: Filters) -> str:
    """The conditions of the filters on a document `d`, dates left out; none if it is empty. Their parameters are `_values`."""
    # Only what is asked for: for a condition that might not be there the planner cannot choose an index.
    given = {
        "d.language = %(language)s::bpchar": filters.language,
        "d.source_type = %(source_type)s": filters.source_type,
        "d.category = %(category)s": filters.category,
        "d.author = %(author)s": filters.author,
        "d.tags @> %(tags)s::text[]": filters.tags,
    }
    return _all_of(*(condition for condition, asked in given.items() if asked))


def _by_source(filters: Filters) -> str:
    """The conditions on a document `d` that one index by source answers: it is of the sources, and one of its filters.

    Of several indexes, another could be one of all sources.
    """
    if filters.tags:
        return f"d.tags @> %(tags)s::text[] AND {_OF_SOURCE_BY_GIN.format(row='d')}"
    of_source = _OF_SOURCE.format(row="d")
    if filters.category is not None:
        return f'{of_source} AND d.category COLLATE "C" = %(category)s'
    if filters.author is not None:
        return f"{of_source} AND d.author = %(author)s"
    return of_source


def _values(filters: Filters, sources: Sequence[UUID] | None) -> dict[str, Any]:
    return {
        "language": filters.language,
        "source_type": filters.source_type,
        "category": filters.category,
        "author": filters.author,
        "tags": list(filters.tags),
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


def _dates(filters: Filters) -> dict[str, Any]:
    """The parameters of `_between`."""
    return {
        "since": filters.since,
        "until": filters.until,
        "days_since": filters.of_days.since,
        "days_until": filters.of_days.until,
        "moments_since": filters.of_moments.since,
        "moments_until": filters.of_moments.until,
    }


def _in_months(column: str, months: Sequence[Month]) -> str:
    """The condition that a column lies in one of these months, which are in order; its parameters are `_months`."""
    runs = range(len(_runs(months)))
    return "(" + " OR ".join(f"{column} >= %(first{n})s AND {column} < %(end{n})s" for n in runs) + ")"


def _months(months: Sequence[Month]) -> dict[str, Any]:
    return {
        name: moment
        for n, (first, last) in enumerate(_runs(months))
        for name, moment in ((f"first{n}", first.start), (f"end{n}", last.end))
    }


def _runs(months: Sequence[Month]) -> list[tuple[Month, Month]]:
    """The first and the last of months that follow each other without a gap."""
    runs: list[tuple[Month, Month]] = []
    for month in months:
        if runs and runs[-1][1].next() == month:
            runs[-1] = runs[-1][0], month
        else:
            runs.append((month, month))
    return runs


def documents_of_sources(
    connection: Connection, filters: Filters, sources: Sequence[UUID], limit: int
) -> list[UUID]:
    """Return documents of these sources, in the range of the filters' dates, whatever their state: at most `limit`."""
    return values(
        connection,
        f"""
        SELECT i.document_id FROM source_items i
        WHERE {_OF_SOURCE.format(row="i")} AND {_between("i.document_created_at", filters)} LIMIT %(limit)s
        """,
        {"sources": list(sources), **_dates(filters), "limit": limit},
    )


def matching_documents(
    connection: Connection,
    filters: Filters,
    sources: Sequence[UUID] | None,
    months: Sequence[Month],
    limit: int,
) -> list[UUID]:
    """Return documents of these months that match the filters and are of these sources (None: all): at most `limit`.

    As in `best_by_words`, ask for a few months at a time. It is for `hydrate` to say whether they may be seen.
    """
    conditions = [_in_months("d.created_at", months), _between("d.created_at", filters)]
    if sources is None:
        conditions.append(_matches(filters))
    else:
        _plan_by_indexes(connection)
        conditions += [_by_source(filters), _not_by_index(_matches(filters))]
    return values(
        connection,
        f"SELECT d.id FROM documents d WHERE {_all_of(*conditions)} LIMIT %(limit)s",
        {**_values(filters, sources), **_dates(filters), **_months(months), "limit": limit},
        prepare=False,
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
    of_sources = "" if sources is None else _OF_SOURCE.format(row="i")
    # First the exact moments, from a table without partitions: Milvus holds only their seconds, and for a range
    # the planner would open every month between the first and the last.
    items = named(
        connection,
        f"""
        SELECT i.document_id, i.document_created_at FROM source_items i
        WHERE i.document_id = ANY(%(documents)s)
            AND {_all_of(_between("i.document_created_at", filters), of_sources)}
        """,
        {
            "documents": list(set(candidates.values())),
            **_dates(filters),
            **_values(filters, sources),
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
        WHERE c.id = ANY(%(chunks)s) AND d.id = ANY(%(documents)s) AND {_all_of("c.live", _not_by_index(_matches(filters)))}
            AND c.document_created_at = ANY(%(moments)s) AND d.created_at = ANY(%(moments)s)
        """,
        {
            "chunks": [chunk for chunk, document in candidates.items() if document in documents],
            "documents": list(documents),
            "moments": list({item.document_created_at for item in items}),
            **_values(filters, sources),
        },
    )
    return {chunk.id: chunk for chunk in found}


def read_one_snapshot(connection: Connection) -> None:
    """Have all queries of a transaction see what the first one sees. Call it before any."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


@dataclass(frozen=True)
class RankedChunk:
    """A chunk that contains words, and not looked up by `hydrate` yet."""

    id: UUID
    document_id: UUID
    position: int
    score: float

    @property
    def rank(self) -> tuple[float, UUID, int]:
        """What sorts chunks, best first."""
        return -self.score, self.document_id, self.position


def best_by_words(
    connection: Connection,
    words: Mapping[str, float],
    filters: Filters,
    months: Sequence[Month],
    limit: int,
    sources: Sequence[UUID] | None = None,
    documents: Sequence[UUID] | None = None,
) -> list[RankedChunk]:
    """Return the live chunks that contain any of the words and match the filters: the best `limit`.

    Of these months, sources and documents (None: all). Whether they may be seen is for `hydrate` to say.

    Every index of every month is locked until the end of the transaction, and PostgreSQL's table of locks is shared by
    all sessions: ask for a few months at a time, each in a transaction of its own.

    `words` maps a word, as PostgreSQL writes it (`term_statistics.CountedWord.lexeme`), to its weight. The score is the sum over the
    words of weight × `ts_rank` (which grows with the word's occurrences and levels off), divided by
    1 + ln(1 + the number of different words in the chunk). `ts_rank` alone does not know which words are rare.
    """
    # A word consists of letters and digits, so quoting it makes it a single lexeme.
    lexemes = [f"'{word}'" for word in words]
    conditions = [
        "c.live AND c.content_words @@ %(any)s::tsquery",
        _in_months("c.document_created_at", months),
        _between("c.document_created_at", filters),
    ]
    join = ""
    if documents is not None:
        of_document = "c.document_id = ANY(%(documents)s)"
    elif of_document := _matches(filters):
        its_document = f"{_OF_ITS_DOCUMENT} AND {_in_months('d.created_at', months)}"
        if sources is None:
            join = f"JOIN documents d ON {its_document}"
        else:  # A join could begin with documents of all sources.
            of_document = f"(SELECT {of_document} FROM documents d WHERE {its_document})"
    if sources is None:
        conditions.append(of_document)
    else:
        _plan_by_indexes(connection)
        conditions += [_OF_SOURCE_BY_GIN.format(row="c"), _not_by_index(of_document)]
    return objects(
        connection,
        RankedChunk,
        f"""
        SELECT c.id, c.document_id, c.position, ranked.score / (1 + ln(1 + length(c.content_words))) AS score
        FROM document_chunks c {join}
        CROSS JOIN LATERAL (
            SELECT sum(w.weight * ts_rank('{{1, 1, 1, 1}}', c.content_words, w.lexeme::tsquery)) AS score
            FROM unnest(%(lexemes)s::text[], %(weights)s::float8[]) AS w(lexeme, weight)
        ) ranked
        WHERE {_all_of(*conditions)}
        ORDER BY score DESC, c.document_id, c.position LIMIT %(limit)s
        """,
        {
            "any": " | ".join(lexemes),
            "lexemes": lexemes,
            "weights": list(words.values()),
            **_values(filters, sources),
            **_dates(filters),
            **_months(months),
            "documents": None if documents is None else list(documents),
            "limit": limit,
        },
        # How many chunks contain the words decides how they are best found; a plan for any words took four times as long.
        prepare=False,
    )


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
