"""`sources` and `source_scans`: the state and statistics of each source, and the progress of a pass over it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, named, one, value, values
from rag_pipeline.stores.postgres.source_items import change_some
from rag_pipeline.stores.postgres.statuses import ITEM_WORK, TO_CHUNK, TO_INDEX, ItemState, SyncStatus, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection


IS_LEFT = "(s.is_active OR EXISTS (SELECT FROM source_items i WHERE i.source = s.id))"
"""That a source `s` is configured, or something of it is still to be deleted: its row stays after that, others name it."""


@dataclass(frozen=True)
class ScanPosition:
    """The progress of a pass over a source."""

    source: UUID
    number: int
    resume_after: str | None
    problems: tuple[str, ...]
    """What could not be listed so far, each with its reason."""


def register(
    connection: Connection,
    source_type: str,
    name: str,
    config: dict[str, Any],
    schedule: str | None,
    access: Sequence[str] = (),
) -> UUID:
    """Create or update a source's row; return its id. `access` is that of a new one: see `set_access`."""
    return value(
        connection,
        """
        INSERT INTO sources (source_type, name, connection_config, sync_schedule, access)
        VALUES (%(type)s, %(name)s, %(config)s::jsonb, %(schedule)s, %(access)s)
        ON CONFLICT (source_type, name) DO UPDATE SET
            connection_config = excluded.connection_config, sync_schedule = excluded.sync_schedule,
            is_active = true, updated_at = now()
        RETURNING id
        """,
        {
            "type": source_type,
            "name": name,
            "config": json.dumps(config),
            "schedule": schedule,
            "access": list(access),
        },
    )


def set_access(connection: Connection, wanted: Sequence[tuple[str, str, Sequence[str]]]) -> dict[str, list[str]]:
    """Store what these sources ask for, as (source_type, name, permissions); return the permissions of those that differed."""
    rows = named(
        connection,
        """
        WITH wanted AS (
            SELECT w.source_type, w.name, ARRAY(SELECT jsonb_array_elements_text(w.access)) AS access
            FROM unnest(%s::text[], %s::text[], %s::jsonb[]) AS w(source_type, name, access)
        ), locked AS (
            SELECT s.id, w.access FROM sources s JOIN wanted w USING (source_type, name)
            WHERE s.access IS DISTINCT FROM w.access
            ORDER BY s.id FOR NO KEY UPDATE OF s
        )
        UPDATE sources s SET access = locked.access, updated_at = now() FROM locked WHERE s.id = locked.id
        RETURNING s.name, s.access
        """,
        (
            [kind for kind, _, _ in wanted],
            [name for _, name, _ in wanted],
            [json.dumps(list(access)) for _, _, access in wanted],
        ),
    )
    return {row.name: row.access for row in rows}


def access(connection: Connection) -> dict[UUID, list[str]]:
    """Return what each source asks for; inactive ones too, whose documents can still be found."""
    return {row.id: row.access for row in named(connection, "SELECT id, access FROM sources")}


def ids_of(connection: Connection, name: str) -> list[UUID]:
    """Return the ids of the sources with a name, one for each type."""
    return values(connection, "SELECT id FROM sources WHERE name = %s", (name,))


def deactivate_unconfigured(
    connection: Connection, names: Sequence[tuple[str, str]], of_any_type: Sequence[str] = ()
) -> list[str]:
    """Mark sources that are no longer configured as inactive; return the names of those that were active.

    `names` are the configured ones as (source_type, name), and `of_any_type` those whose entries have a mistake, which
    can be in their type. Their documents stay.
    """
    return values(
        connection,
        """
        WITH unconfigured AS (
            SELECT id FROM sources
            WHERE is_active AND name <> ALL(%s::text[]) AND NOT EXISTS (
                SELECT FROM unnest(%s::text[], %s::text[]) AS configured(source_type, name)
                WHERE configured.source_type = sources.source_type AND configured.name = sources.name)
            ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE sources s SET is_active = false, next_sync_at = NULL, updated_at = now()
        FROM unconfigured WHERE s.id = unconfigured.id
        RETURNING s.name
        """,
        (list(of_any_type), [kind for kind, _ in names], [name for _, name in names]),
    )


def begin_or_resume_pass(connection: Connection, source: UUID) -> ScanPosition:
    """Return the unfinished pass over the source, or a new one."""
    scan = one(
        connection,
        """
        INSERT INTO source_scans AS s (source, pass, started_at) VALUES (%s, 1, now())
        ON CONFLICT (source) DO UPDATE SET
            pass = s.pass + (s.finished_at IS NOT NULL)::int,
            resume_after = CASE WHEN s.finished_at IS NULL THEN s.resume_after END,
            problems = CASE WHEN s.finished_at IS NULL THEN s.problems ELSE '{}' END,
            unlisted = CASE WHEN s.finished_at IS NULL THEN s.unlisted ELSE '{}' END,
            started_at = CASE WHEN s.finished_at IS NULL THEN s.started_at ELSE now() END,
            finished_at = NULL
        RETURNING pass AS number, resume_after, problems
        """,
        (source,),
    )
    connection.execute(f"UPDATE sources SET sync_status = {SyncStatus.RUNNING.sql} WHERE id = %s", (source,))
    return ScanPosition(source, scan.number, scan.resume_after, tuple(scan.problems))


def advance_pass(
    connection: Connection, source: UUID, after: str, problems: Sequence[str], unlisted: Sequence[str]
) -> None:
    """Store how far the pass has come, in the transaction that stored what it saw.

    `unlisted` are the keys of the problems: items whose key begins with one of them are not gone.
    """
    connection.execute(
        """
        UPDATE source_scans SET
            resume_after = %s, problems = problems || %s::text[], unlisted = unlisted || %s::text[]
        WHERE source = %s
        """,
        (after, list(problems), list(unlisted), source),
    )


def finish_pass(connection: Connection, source: UUID, next_sync_at: datetime | None, problems: int) -> None:
    """Mark the pass as complete: store its time and the source's statistics."""
    connection.execute("UPDATE source_scans SET finished_at = now() WHERE source = %s", (source,))
    connection.execute(
        f"""
        UPDATE sources SET
            sync_status = {SyncStatus.COMPLETED.sql}, last_sync_at = now(), next_sync_at = %(next)s,
            error_count = %(problems)s, last_error = CASE WHEN %(problems)s = 0 THEN NULL ELSE last_error END,
            updated_at = now()
        WHERE id = %(source)s
        """,
        {"source": source, "next": next_sync_at, "problems": problems},
    )
    refresh_statistics(connection, [source])


def restart_pass(connection: Connection, source: UUID) -> None:
    """Forget how far the pass has come: the next scan starts over."""
    connection.execute(
        "UPDATE source_scans SET finished_at = now() WHERE source = %s AND finished_at IS NULL", (source,)
    )


def fail_sync(connection: Connection, source: UUID, error: str, next_sync_at: datetime | None) -> None:
    """Record that a scan failed; what it had stored stays."""
    connection.execute(
        f"""
        UPDATE sources SET sync_status = {SyncStatus.FAILED.sql}, error_count = error_count + 1, last_error = %s,
            next_sync_at = %s, updated_at = now()
        WHERE id = %s
        """,
        (error, next_sync_at, source),
    )


def _counted(condition: str) -> str:
    """The counts of the items of each source `s` that meets the condition."""
    return f"""
        SELECT s.id, count(i.source) AS total,
            count(*) FILTER (WHERE i.state = {ItemState.INGESTED.sql}) AS ingested,
            count(*) FILTER (WHERE i.state = {ItemState.FAILED.sql}) AS failed,
            count(*) FILTER (WHERE i.state = {ItemState.PENDING.sql}) AS pending,
            count(*) FILTER (WHERE i.state IN {one_of(*ITEM_WORK)}) AS waiting
        FROM sources s LEFT JOIN source_items i ON i.source = s.id WHERE {condition} GROUP BY s.id
    """


def refresh_statistics(connection: Connection, chosen: Sequence[UUID] | None = None) -> None:
    """Recount the documents of these sources (default: all) and update the counts that have changed.

    A transaction that has locked items calls this last. One that locks several sources locks them in order, so that
    two of them never wait for each other.
    """
    of_chosen = "(%(chosen)s::uuid[] IS NULL OR s.id = ANY(%(chosen)s))"
    parameters = {"chosen": None if chosen is None else list(chosen)}
    # Locked before they are counted: of two transactions that count, the second sees what the first has stored.
    connection.execute(f"SELECT FROM sources s WHERE {of_chosen} ORDER BY id FOR NO KEY UPDATE", parameters)
    connection.execute(
        f"""
        UPDATE sources s SET total_documents = c.total, successful_documents = c.ingested,
            failed_documents = c.failed
        FROM ({_counted(of_chosen)}) c
        WHERE c.id = s.id AND (s.total_documents, s.successful_documents, s.failed_documents)
            IS DISTINCT FROM (c.total, c.ingested, c.failed)
        """,
        parameters,
    )


def wrong_statistics(connection: Connection) -> list[dict[str, Any]]:
    """Return the sources whose stored counts differ from those of their items, with both, by name.

    Sources with an unfinished pass or pending items are left out: they are recounted at its end.
    """
    return dicts(
        connection,
        f"""
        SELECT s.name AS source, s.total_documents, c.total AS items, s.successful_documents, c.ingested,
            s.failed_documents, c.failed
        FROM sources s JOIN ({_counted("true")}) c ON c.id = s.id
        WHERE c.waiting = 0 AND NOT EXISTS (
                SELECT FROM source_scans p WHERE p.source = s.id AND p.finished_at IS NULL)
            AND (s.total_documents, s.successful_documents, s.failed_documents)
                IS DISTINCT FROM (c.total, c.ingested, c.failed)
        ORDER BY s.name
        """,
    )


def names(connection: Connection) -> list[str]:
    """Return the name of every source that was ever scanned, also of those that were removed."""
    return values(connection, "SELECT DISTINCT name FROM sources ORDER BY name")


def list_sources(connection: Connection) -> list[dict[str, Any]]:
    """Return the sources with their state, by name, without inactive ones of which nothing is left."""
    return dicts(
        connection,
        f"""
        SELECT name, source_type, is_active, sync_schedule, sync_status, last_sync_at, next_sync_at,
            total_documents, successful_documents, failed_documents, error_count, last_error
        FROM sources s
        WHERE {IS_LEFT} ORDER BY name, source_type
        """,
    )


def documents_now(connection: Connection) -> dict[tuple[str, str], dict[str, int]]:
    """Return how far the documents of each source, as (source_type, name), have come at this moment.

    `total_documents`, `successful_documents` and `failed_documents` as in its row, which a scan and the end of a run
    store; `waiting_documents` are new, changed or to be retried, and `unsearchable_documents` are ingested, but searches
    do not find them yet, or find their version before.
    """
    rows = named(
        connection,
        f"""
        WITH counted AS ({_counted("true")}), unsearchable AS (
            SELECT i.source AS id, count(*) AS number
            FROM documents d JOIN source_items i USING (source_type, source_id)
            WHERE (d.processing_status IN {one_of(*TO_CHUNK)} OR d.indexing_status IN {one_of(*TO_INDEX)})
                AND i.state = {ItemState.INGESTED.sql}
            GROUP BY i.source
        )
        SELECT s.source_type, s.name, c.total AS total_documents, c.ingested AS successful_documents,
            c.failed AS failed_documents, c.pending AS waiting_documents,
            coalesce(u.number, 0) AS unsearchable_documents
        FROM sources s JOIN counted c ON c.id = s.id LEFT JOIN unsearchable u ON u.id = s.id
        """,
    )
    return {(row.source_type, row.name): dict(list(row._asdict().items())[2:]) for row in rows}


def remove(connection: Connection, name: str, limit: int) -> int:
    """Mark up to `limit` items of an inactive source as gone, for their months' runs to delete; return their number."""
    return change_some(
        connection,
        f"state = {ItemState.GONE.sql}",
        f"i.state <> {ItemState.GONE.sql}",
        {"name": name, "limit": limit},
        which="i.source IN (SELECT s.id FROM sources s WHERE s.name = %(name)s AND NOT s.is_active)",
    )


def state_of(connection: Connection, source_type: str, name: str) -> Any | None:
    """Return a source's id, is_active, connection_config, sync_status, last_error, last_sync_at, next_sync_at and problems;
    None if it is unknown.

    `problems` is what its last pass could not list.
    """
    rows = named(
        connection,
        """
        SELECT s.id, s.is_active, s.connection_config, s.sync_status, s.last_error, s.last_sync_at, s.next_sync_at,
            coalesce(p.problems, '{}') AS problems
        FROM sources s LEFT JOIN source_scans p ON p.source = s.id
        WHERE s.source_type = %s AND s.name = %s
        """,
        (source_type, name),
    )
    return rows[0] if rows else None


def waits_until(
    connection: Connection, source_type: str, name: str, config: dict[str, Any], schedule: str, now: datetime
) -> datetime | None:
    """Return when the source is due for a sync; None if it is due now.

    That is if it was never synced, its time has come, it has a new schedule or another configuration, or a pass over it
    is unfinished.
    """
    moment: datetime | None = value(
        connection,
        f"""
        SELECT s.next_sync_at FROM sources s
        WHERE s.source_type = %(type)s AND s.name = %(name)s AND s.is_active
            AND s.next_sync_at > %(now)s AND s.sync_schedule = %(schedule)s
            AND s.connection_config = %(config)s::jsonb AND NOT EXISTS (
                SELECT FROM source_scans p
                WHERE p.source = s.id AND p.finished_at IS NULL AND s.sync_status = {SyncStatus.RUNNING.sql})
        """,
        {"type": source_type, "name": name, "config": json.dumps(config), "schedule": schedule, "now": now},
    )
    return moment
