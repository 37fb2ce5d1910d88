"""`source_items`: what each source holds. Scans write it; a month's run processes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, named, objects, one, value, values
from rag_pipeline.stores.postgres.month_bounds import ITEMS_OF_MONTH, month_bounds
from rag_pipeline.stores.postgres.statuses import (
    ITEM_KEPT,
    RETRY_AT,
    IndexingStatus,
    ItemState,
    ProcessingStatus,
    one_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rag_pipeline.months import Month
    from rag_pipeline.sources.interface import Item
    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class PendingItem:
    """An item whose document is to be created or updated."""

    source_type: str
    source_id: str
    source: str
    """The source's name."""
    source_key: UUID
    """The id of the source's row."""
    name: str
    locator: str
    url: str | None
    document_id: UUID
    created_at: datetime
    fingerprint: str
    recipe: str
    content_hash: str | None
    """SHA-256 of the bytes last ingested; None if by another recipe."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a pending item: ingested, or failed with an error."""

    item: PendingItem
    content_hash: str | None = None
    error: str | None = None


def new_ids(connection: Connection, source_type: str, source_ids: Sequence[str]) -> set[str]:
    """Return those of these ids that have no item: never seen, or deleted since."""
    new = values(
        connection,
        """
        SELECT seen.id FROM unnest(%s::text[]) AS seen(id)
        WHERE NOT EXISTS (SELECT FROM source_items i WHERE i.source_type = %s AND i.source_id = seen.id)
        """,
        (list(source_ids), source_type),
    )
    return set(new)


@dataclass(frozen=True)
class Pass:
    """A pass over a source, and what decides how its items are ingested."""

    source_type: str
    source: UUID
    number: int
    recipe: str
    oldest_kept: datetime | None = None
    """Items dated before this are not ingested. None: all are."""


def _listable(also: str = "") -> str:
    """The condition that an item is below nothing that its source's pass could not list; `also`: further prefixes."""
    return f"""NOT EXISTS (
        SELECT FROM source_scans s, unnest(s.unlisted{also}) AS prefix
        WHERE s.source = i.source AND starts_with(i.locator, prefix))"""


IN_ORDER = "ORDER BY i.source_type, i.source_id"
"""Whatever changes several items locks them in this order: a scan and a month's run then never wait for each other."""

_CREATE_SCANNED = """
    CREATE TEMPORARY TABLE IF NOT EXISTS scanned (
        source_id TEXT, name TEXT, locator TEXT, url TEXT, fingerprint TEXT, older_fingerprint TEXT,
        created_at TIMESTAMPTZ
    ) ON COMMIT DELETE ROWS"""


@dataclass(frozen=True)
class _Seen:
    """What a pass sees of an item, in SQL: its fingerprint in every form that counts as it, and its recipe."""

    fingerprints: str
    recipe: str


def _seen_before(seen: _Seen) -> str:
    """The condition that a known item was seen with the same fingerprint and recipe before."""
    return f"coalesce(i.seen_fingerprint IN {seen.fingerprints} AND i.seen_recipe = {seen.recipe}, false)"


def _next_state(seen: _Seen) -> str:
    """The next state of a known item that a pass sees; the first condition that holds decides."""
    not_ingested = (
        f"NOT coalesce(i.ingested_fingerprint IN {seen.fingerprints} AND i.ingested_recipe = {seen.recipe}, false)"
    )
    return f"""CASE
        WHEN i.state = {ItemState.EXPIRED.sql} THEN {ItemState.EXPIRED.sql}
        WHEN i.state = {ItemState.FAILED.sql} AND {_seen_before(seen)} THEN {ItemState.FAILED.sql}
        WHEN i.document_created_at < %(oldest_kept)s AND {not_ingested} THEN {ItemState.EXPIRED.sql}
        -- Back to what was ingested before: its document still says that it cannot be read.
        WHEN i.state = {ItemState.FAILED.sql} THEN {ItemState.PENDING.sql}
        WHEN {not_ingested} THEN {ItemState.PENDING.sql}
        ELSE {ItemState.INGESTED.sql}
    END"""


_SCANNED = _Seen("(scanned.fingerprint, scanned.older_fingerprint)", "%(recipe)s")
_EXCLUDED = _Seen("(excluded.seen_fingerprint)", "excluded.seen_recipe")
_AS_STORED = f"""(i.source, i.name, i.locator, i.url) IS NOT DISTINCT FROM
        (%(source)s::uuid, scanned.name, scanned.locator, scanned.url)
    AND {_seen_before(_SCANNED)} AND i.missed_pass IS DISTINCT FROM %(pass)s
    AND i.state = {_next_state(_SCANNED)}"""
"""The item is stored exactly as the pass sees it. Most are, and are not written: passes follow each other every few
minutes."""
_MERGE_SCANNED = f"""
    WITH compared AS MATERIALIZED (
        SELECT scanned.*, i.state AS before, {_AS_STORED} AS is_stored,
            scanned.older_fingerprint IN (i.seen_fingerprint, i.ingested_fingerprint) AS has_older
        FROM scanned LEFT JOIN source_items i ON i.source_type = %(type)s AND i.source_id = scanned.source_id
    ), merged AS (
        INSERT INTO source_items AS i (source_type, source_id, source, name, locator, url, document_created_at,
            seen_fingerprint, seen_recipe, state)
        SELECT %(type)s, source_id, %(source)s, name, locator, url, created_at, fingerprint, %(recipe)s,
            CASE WHEN created_at < %(oldest_kept)s THEN {ItemState.EXPIRED.sql} ELSE {ItemState.PENDING.sql} END
        FROM compared WHERE is_stored IS NOT TRUE ORDER BY source_id
        ON CONFLICT (source_type, source_id) DO UPDATE SET
            source = excluded.source, name = excluded.name, locator = excluded.locator, url = excluded.url,
            missed_pass = NULL,
            state = {_next_state(_EXCLUDED)},
            failures = CASE WHEN {_seen_before(_EXCLUDED)} THEN i.failures ELSE 0 END,
            seen_fingerprint = excluded.seen_fingerprint, seen_recipe = excluded.seen_recipe
        RETURNING i.source_id, i.state
    )
    SELECT count(*) FILTER (WHERE before IS NULL AND merged.state = {ItemState.PENDING.sql}) AS new,
        count(*) FILTER (WHERE before <> {ItemState.PENDING.sql} AND merged.state = {ItemState.PENDING.sql}) AS changed,
        (SELECT count(*) FROM compared WHERE has_older) AS with_older_fingerprint
    FROM merged JOIN compared USING (source_id)"""
_RENEW_FINGERPRINTS = f"""
    WITH older AS (
        SELECT i.source_type, i.source_id, scanned.fingerprint, scanned.older_fingerprint
        FROM scanned JOIN source_items i ON i.source_type = %(type)s AND i.source_id = scanned.source_id
        WHERE scanned.older_fingerprint IN (i.seen_fingerprint, i.ingested_fingerprint)
        {IN_ORDER} FOR NO KEY UPDATE OF i
    )
    UPDATE source_items i SET
        seen_fingerprint = CASE WHEN i.seen_fingerprint = older.older_fingerprint THEN older.fingerprint
            ELSE i.seen_fingerprint END,
        ingested_fingerprint = CASE WHEN i.ingested_fingerprint = older.older_fingerprint THEN older.fingerprint
            ELSE i.ingested_fingerprint END
    FROM older WHERE (i.source_type, i.source_id) = (older.source_type, older.source_id)"""
"""Once after an update of the program: from then on the fingerprints tell apart what the older ones did not."""


def merge(connection: Connection, of: Pass, items: Sequence[tuple[Item, datetime]]) -> tuple[int, int]:
    """Store what a slice of a pass saw; return the numbers of new and of changed items.

    `items` come with the time that decides a new document's month; a known document keeps its own.
    An item is pending when its fingerprint or its recipe is not the ingested one. A failed one stays so until
    either changes. What would be pending and is older than `oldest_kept` is expired instead, and stays so until
    `expiring_months.restore_items`.
    """
    connection.execute(_CREATE_SCANNED)
    with connection.cursor().copy(
        "COPY scanned (source_id, name, locator, url, fingerprint, older_fingerprint, created_at) FROM STDIN"
    ) as copy:
        for item, created_at in items:
            fingerprints = item.fingerprint, item.older_fingerprint
            copy.write_row((item.source_id, item.name, item.locator, item.url, *fingerprints, created_at))
    counts = one(
        connection,
        _MERGE_SCANNED,
        {
            "type": of.source_type,
            "source": of.source,
            "recipe": of.recipe,
            "pass": of.number,
            "oldest_kept": of.oldest_kept,
        },
    )
    if counts.with_older_fingerprint:
        connection.execute(_RENEW_FINGERPRINTS, {"type": of.source_type})
    connection.execute("DELETE FROM scanned")
    return counts.new, counts.changed


_PREFIX = 200
"""Characters of a locator in the index: PostgreSQL has a limit of a third of a page."""
_BEHIND = f"""i.locator COLLATE "C" > %(after)s AND left(i.locator, {_PREFIX}) COLLATE "C" >= left(%(after)s, {_PREFIX})"""
_UNTIL = f"""AND i.locator COLLATE "C" <= %(until)s
    AND left(i.locator, {_PREFIX}) COLLATE "C" <= left(%(until)s, {_PREFIX})"""


def change_some(
    connection: Connection,
    change: str,
    still: str,
    parameters: Mapping[str, Any],
    *,
    which: str = "true",
    prepare: bool | None = None,
) -> int:
    """Change up to `limit` items, locked in order; return their number.

    `change` is an assignment. `which` and `still` are conditions of an item `i`: which ones, and what must hold of each
    once it is locked. `parameters` has theirs, and the limit.
    """
    # Whichever come first by an index, and only then in the order in which items are locked.
    return connection.execute(
        f"""
        WITH chosen AS (
            SELECT i.source_type, i.source_id FROM source_items i
            WHERE {still} AND (i.source_type, i.source_id) IN (
                SELECT i.source_type, i.source_id FROM source_items i WHERE {which} AND {still} LIMIT %(limit)s)
            {IN_ORDER} FOR NO KEY UPDATE OF i
        )
        UPDATE source_items i SET {change}
        FROM chosen WHERE (i.source_type, i.source_id) = (chosen.source_type, chosen.source_id)
        """,
        parameters,
        prepare=prepare,
    ).rowcount


@dataclass(frozen=True)
class Slice:
    """What a slice of a pass saw, and where it looked."""

    seen: Sequence[str]
    """The source_ids that it saw."""
    after: str
    """It looked at what is behind this key …"""
    until: str | None = None
    """… and up to this one. None: to the end."""
    unlisted: Sequence[str] = ()
    """The prefixes of what it could not list: that can be there."""

    def missed(self) -> str:
        """The condition that a known item was not seen there; its parameters are those of `parameters`."""
        return f"""i.source = %(source)s AND {_BEHIND} {"" if self.until is None else _UNTIL}
            AND NOT EXISTS (SELECT FROM unnest(%(seen)s::text[]) AS seen(id) WHERE seen.id = i.source_id)
            AND {_listable(" || %(unlisted)s::text[]")}"""

    def parameters(self, of: Pass) -> dict[str, Any]:
        return {
            "source": of.source,
            "pass": of.number,
            "after": self.after,
            "until": self.until,
            "seen": list(self.seen),
            "unlisted": list(self.unlisted),
        }


_UNMARKED = f"i.state <> {ItemState.GONE.sql} AND i.missed_pass IS DISTINCT FROM %(pass)s"


def has_missed(connection: Connection, of: Pass, where: Slice) -> bool:
    """Whether `mark_missed` has something to mark: mostly not, and this takes half of its time."""
    found = connection.execute(
        f"SELECT count(*) FROM source_items i WHERE {where.missed()} AND {_UNMARKED}",
        where.parameters(of),
        prepare=False,  # A plan for arrays of any length compares each known item with each seen one.
    ).fetchone()
    return found != (0,)


def mark_missed(connection: Connection, of: Pass, where: Slice, limit: int) -> int:
    """Mark up to `limit` items that a slice of a pass did not see; return their number."""
    return change_some(
        connection,
        "missed_pass = %(pass)s",
        _UNMARKED,
        {**where.parameters(of), "limit": limit},
        which=where.missed(),
        prepare=False,
    )


def unseen(connection: Connection, source: UUID, number: int) -> tuple[int, int]:
    """Return (items that a complete pass could have seen but did not, all items of the source).

    Gone and expired items are left out: they have no document to lose.
    """
    counts = one(
        connection,
        f"""
        SELECT count(*) FILTER (WHERE i.missed_pass = %(pass)s AND {_listable()}) AS unseen,
            count(*) AS known
        FROM source_items i
        WHERE i.source = %(source)s AND i.state NOT IN {one_of(ItemState.GONE, ItemState.EXPIRED)}
        """,
        {"pass": number, "source": source},
    )
    return counts.unseen, counts.known


def mark_gone(connection: Connection, source: UUID, number: int, limit: int) -> int:
    """Mark up to `limit` items that a complete pass did not see as gone; return their number.

    Not those below what it could not list.
    """
    return change_some(
        connection,
        f"state = {ItemState.GONE.sql}",
        f"i.missed_pass = %(pass)s AND i.state <> {ItemState.GONE.sql}",
        {"source": source, "pass": number, "limit": limit},
        which=f"i.source = %(source)s AND {_listable()}",
    )


_OF_SOURCES = """(%(names)s::text[] IS NULL
    OR i.source IN (SELECT s.id FROM sources s WHERE s.name = ANY(%(names)s)))"""


def retry_failed(connection: Connection, limit: int, sources: Sequence[str] | None = None) -> int:
    """Make up to `limit` quarantined items of all sources, or the named ones, pending; return their number."""
    return change_some(
        connection,
        f"state = {ItemState.PENDING.sql}",
        f"i.state = {ItemState.FAILED.sql}",
        {"names": None if sources is None else list(sources), "limit": limit},
        which=_OF_SOURCES,
    )


def reread(
    connection: Connection,
    limit: int,
    after: tuple[str, str] = ("", ""),
    sources: Sequence[str] | None = None,
    month: Month | None = None,
) -> tuple[int, tuple[str, str]]:
    """Make items pending and forget what was read of them: up to `limit` of all sources or the named ones, of all months or
    one, in their order, that follow `after`. Return their number and the last one.

    Without the order it would never end: what a run reads meanwhile would be taken up again.
    """
    of_month, bounds = (f"AND {ITEMS_OF_MONTH}", month_bounds(month)) if month else ("", {})
    rows = named(
        connection,
        f"""
        WITH again AS (
            SELECT i.source_type, i.source_id FROM source_items i JOIN sources s ON s.id = i.source
            WHERE s.is_active AND {_OF_SOURCES} {of_month}
                AND (i.state IN {one_of(ItemState.INGESTED, ItemState.FAILED)}
                    OR i.state = {ItemState.PENDING.sql} AND i.content_hash IS NOT NULL)
                AND (i.source_type, i.source_id) > (%(type)s, %(id)s)
            {IN_ORDER} LIMIT %(limit)s FOR NO KEY UPDATE OF i
        ), changed AS (
            UPDATE source_items i SET state = {ItemState.PENDING.sql}, content_hash = NULL
            FROM again WHERE (i.source_type, i.source_id) = (again.source_type, again.source_id)
        )
        SELECT source_type, source_id, count(*) OVER () AS total FROM again
        ORDER BY source_type DESC, source_id DESC LIMIT 1
        """,
        {
            "names": None if sources is None else list(sources),
            "type": after[0],
            "id": after[1],
            "limit": limit,
            **bounds,
        },
    )
    return (rows[0].total, (rows[0].source_type, rows[0].source_id)) if rows else (0, after)


def retry_due(connection: Connection, limit: int) -> int:
    """Make up to `limit` quarantined items due for a retry (see `RETRY_AT`) pending; return their number."""
    return connection.execute(
        f"""
        WITH due AS (
            SELECT i.source_type, i.source_id FROM source_items i
            WHERE i.state = {ItemState.FAILED.sql} AND (i.source_type, i.source_id) IN (
                SELECT source_type, source_id FROM source_items
                WHERE state = {ItemState.FAILED.sql} AND retry_at <= now() ORDER BY retry_at LIMIT %s)
            {IN_ORDER} FOR NO KEY UPDATE
        )
        UPDATE source_items i SET state = {ItemState.PENDING.sql}
        FROM due WHERE (i.source_type, i.source_id) = (due.source_type, due.source_id)
        """,
        (limit,),
    ).rowcount


def pending(
    connection: Connection, month: Month, limit: int, after: tuple[str, str] = ("", "")
) -> list[PendingItem]:
    """Return the next pending items of a month, ordered by (source_type, source_id), that follow `after`."""
    return objects(
        connection,
        PendingItem,
        f"""
        SELECT i.source_type, i.source_id, s.name AS source, s.id AS source_key, i.name, i.locator, i.url, i.document_id,
            i.document_created_at AS created_at, i.seen_fingerprint AS fingerprint, i.seen_recipe AS recipe,
            CASE WHEN i.ingested_recipe = i.seen_recipe THEN i.content_hash END AS content_hash
        FROM source_items i JOIN sources s ON s.id = i.source
        WHERE i.state = {ItemState.PENDING.sql} AND {ITEMS_OF_MONTH}
            AND (i.source_type, i.source_id) > (%(type)s, %(id)s)
        ORDER BY i.source_type, i.source_id LIMIT %(limit)s
        """,
        {**month_bounds(month), "type": after[0], "id": after[1], "limit": limit},
    )


def pending_up_to(connection: Connection, month: Month, limit: int | None = None) -> int:
    """Return how many items of a month are pending; counts no further than `limit`, if one is given."""
    counted: int = value(
        connection,
        f"""
        SELECT count(*) FROM (
            SELECT FROM source_items i WHERE i.state = {ItemState.PENDING.sql} AND {ITEMS_OF_MONTH} LIMIT %(limit)s
        ) counted
        """,
        {"limit": limit, **month_bounds(month)},
    )
    return counted


def record(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Store the outcomes of pending items.

    One that a scan has changed meanwhile stays pending, and one that is gone or expired by now stays that.
    """
    connection.cursor().executemany(
        f"""
        UPDATE source_items SET
            state = CASE
                WHEN state IN {one_of(ItemState.GONE, ItemState.EXPIRED)} THEN state
                WHEN (seen_fingerprint, seen_recipe) IS DISTINCT FROM (%(fingerprint)s, %(recipe)s)
                    THEN {ItemState.PENDING.sql}
                WHEN state <> {ItemState.PENDING.sql} THEN state
                WHEN %(error)s::text IS NULL THEN {ItemState.INGESTED.sql} ELSE {ItemState.FAILED.sql} END,
            error_message = %(error)s,
            failures = CASE WHEN %(error)s::text IS NULL THEN 0 ELSE failures + 1 END,
            retry_at = CASE WHEN %(error)s::text IS NULL THEN NULL ELSE {RETRY_AT} END,
            ingested_fingerprint = CASE WHEN %(error)s::text IS NULL THEN %(fingerprint)s
                ELSE ingested_fingerprint END,
            ingested_recipe = CASE WHEN %(error)s::text IS NULL THEN %(recipe)s ELSE ingested_recipe END,
            content_hash = coalesce(%(content_hash)s, content_hash),
            ingested_at = CASE WHEN %(error)s::text IS NULL THEN now() ELSE ingested_at END
        WHERE source_type = %(type)s AND source_id = %(id)s
        """,
        [
            {
                "type": outcome.item.source_type,
                "id": outcome.item.source_id,
                "fingerprint": outcome.item.fingerprint,
                "recipe": outcome.item.recipe,
                "content_hash": outcome.content_hash,
                "error": outcome.error,
            }
            for outcome in outcomes
        ],
    )


def delete_gone(connection: Connection, month: Month, limit: int) -> list[UUID]:
    """Delete up to `limit` gone items of a month with their documents and chunks; return the source of each.

    The trigger on the chunks puts their vectors into the outbox in the same transaction.
    """
    return values(
        connection,
        f"""
        WITH gone AS (
            SELECT i.source_type, i.source_id FROM source_items i
            WHERE i.state = {ItemState.GONE.sql} AND {ITEMS_OF_MONTH}
            {IN_ORDER} LIMIT %(limit)s FOR UPDATE
        )
        DELETE FROM source_items i USING gone
        WHERE (i.source_type, i.source_id) = (gone.source_type, gone.source_id) RETURNING i.source
        """,
        {**month_bounds(month), "limit": limit},
    )


def gone(connection: Connection, name: str) -> int:
    """Return the number of a source's gone items, which their months' next runs delete with their documents."""
    return value(
        connection,
        f"""
        SELECT count(*) FROM source_items i JOIN sources s ON s.id = i.source
        WHERE s.name = %s AND i.state = {ItemState.GONE.sql}
        """,
        (name,),
    )


def quarantined(connection: Connection, source: UUID, limit: int) -> tuple[int, list[tuple[str, str]]]:
    """Return the number of a source's quarantined items, and up to `limit` of them as (source_id, reason)."""
    rows = named(
        connection,
        f"""
        SELECT source_id, coalesce(error_message, '') AS reason, count(*) OVER () AS total FROM source_items
        WHERE source = %s AND state = {ItemState.FAILED.sql} ORDER BY source_id LIMIT %s
        """,
        (source, limit),
    )
    return (rows[0].total if rows else 0), [(row.source_id, row.reason) for row in rows]


def months_with_items(connection: Connection, months: Sequence[Month]) -> list[Month]:
    """Return those of these months that a source has items for, without expired and gone ones."""
    numbers = values(
        connection,
        f"""
        SELECT month.number FROM unnest(%s::timestamptz[], %s::timestamptz[])
            WITH ORDINALITY AS month(start, until, number)
        WHERE EXISTS (SELECT FROM source_items WHERE state IN {one_of(*ITEM_KEPT)}
            AND document_created_at >= month.start AND document_created_at < month.until)
        """,
        ([month.start for month in months], [month.end for month in months]),
    )
    return [months[number - 1] for number in numbers]


def overview(connection: Connection, failed_only: bool, limit: int | None = None) -> list[dict[str, Any]]:
    """Return every item with its document's state, by source and id; `failed_only`: quarantined ones."""
    return dicts(
        connection,
        f"""
        SELECT s.name AS source, i.source_type, i.source_id, coalesce(d.title, i.name) AS title,
            to_char(i.document_created_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
            CASE WHEN i.state IN {one_of(ItemState.FAILED, ItemState.EXPIRED)} THEN i.state
                ELSE coalesce(d.processing_status, {ProcessingStatus.PENDING.sql}) END AS processing_status,
            coalesce(d.indexing_status,
                CASE WHEN i.state IN {one_of(ItemState.FAILED, ItemState.EXPIRED)} THEN i.state
                    ELSE {ItemState.PENDING.sql} END) AS indexing_status,
            coalesce(i.error_message, d.error_message) AS error
        FROM source_items i
        JOIN sources s ON s.id = i.source
        LEFT JOIN documents d ON d.id = i.document_id AND d.created_at = i.document_created_at
        WHERE NOT %(failed)s OR i.state = {ItemState.FAILED.sql} OR d.indexing_status = {IndexingStatus.FAILED.sql}
        ORDER BY 1, 2, 3 LIMIT %(limit)s
        """,
        {"failed": failed_only, "limit": limit},
    )
