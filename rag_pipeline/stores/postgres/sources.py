"""`sources` and `source_scans`: the running state and statistics of each source, and how far a pass over it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, one, value, values
from rag_pipeline.stores.postgres.statuses import (
    ITEM_WORK,
    ItemState,
    SyncStatus,
    one_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class ScanPosition:
    """A pass over a source that is under way."""

    source: UUID
    number: int
    resume_after: str | None
    problems: tuple[str, ...]
    """What could not be listed so far, and why."""


def register(
    connection: Connection, source_type: str, name: str, config: dict[str, Any], schedule: str | None
) -> UUID:
    """The source's row, made or brought up to date; its id."""
    return value(
        connection,
        """
        INSERT INTO sources (source_type, name, connection_config, sync_schedule)
        VALUES (%(type)s, %(name)s, %(config)s::jsonb, %(schedule)s)
        ON CONFLICT (source_type, name) DO UPDATE SET
            connection_config = excluded.connection_config, sync_schedule = excluded.sync_schedule,
            is_active = true, updated_at = now()
        RETURNING id
        """,
        {"type": source_type, "name": name, "config": json.dumps(config), "schedule": schedule},
    )


def set_active(connection: Connection, names: Sequence[tuple[str, str]]) -> list[str]:
    """Mark as inactive the sources that are no longer configured; the names of those newly so.

    `names` are the configured ones as (source_type, name). Their documents stay.
    """
    return values(
        connection,
        """
        UPDATE sources SET is_active = false, next_sync_at = NULL, updated_at = now()
        WHERE is_active AND NOT EXISTS (
            SELECT FROM unnest(%s::text[], %s::text[]) AS configured(source_type, name)
            WHERE configured.source_type = sources.source_type AND configured.name = sources.name
        )
        RETURNING name
        """,
        ([kind for kind, _ in names], [name for _, name in names]),
    )


def begin_or_resume_pass(connection: Connection, source: UUID) -> ScanPosition:
    """The pass that is under way, else a new one."""
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
    """Remember how far the pass has come, in the transaction that stored what it saw.

    `unlisted` are the keys of the problems: what begins with one of them is not gone.
    """
    connection.execute(
        """
        UPDATE source_scans SET resume_after = %s, problems = problems || %s::text[], unlisted = unlisted || %s::text[]
        WHERE source = %s
        """,
        (after, list(problems), list(unlisted), source),
    )


def finish_pass(connection: Connection, source: UUID, next_sync_at: datetime | None, problems: int) -> None:
    """The pass is complete: store its time and the source's statistics."""
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
    refresh_statistics(connection)


def restart_pass(connection: Connection, source: UUID) -> None:
    """Forget how far the pass is: the next scan begins anew."""
    connection.execute(
        "UPDATE source_scans SET finished_at = now() WHERE source = %s AND finished_at IS NULL", (source,)
    )


def fail_sync(connection: Connection, source: UUID, error: str, next_sync_at: datetime | None) -> None:
    """A scan failed; what it had stored stays."""
    connection.execute(
        f"""
        UPDATE sources SET sync_status = {SyncStatus.FAILED.sql}, error_count = error_count + 1, last_error = %s,
            next_sync_at = %s, updated_at = now()
        WHERE id = %s
        """,
        (error, next_sync_at, source),
    )


_COUNTED = f"""
    SELECT s.id, count(i.source) AS total,
        count(*) FILTER (WHERE i.state = {ItemState.INGESTED.sql}) AS ingested,
        count(*) FILTER (WHERE i.state = {ItemState.FAILED.sql}) AS failed,
        count(*) FILTER (WHERE i.state IN {one_of(*ITEM_WORK)}) AS waiting
    FROM sources s LEFT JOIN source_items i ON i.source = s.id GROUP BY s.id
"""


def refresh_statistics(connection: Connection) -> None:
    """Count each source's documents anew, where the counts have changed."""
    connection.execute(
        f"""
        UPDATE sources s SET total_documents = c.total, successful_documents = c.ingested,
            failed_documents = c.failed
        FROM ({_COUNTED}) c
        WHERE c.id = s.id AND (s.total_documents, s.successful_documents, s.failed_documents)
            IS DISTINCT FROM (c.total, c.ingested, c.failed)
        """
    )


def wrong_statistics(connection: Connection) -> list[dict[str, Any]]:
    """The sources whose stored counts are not those of their items, with both, by name.

    Those with a pass or items under way are left out: they are counted when that is done.
    """
    return dicts(
        connection,
        f"""
        SELECT s.name AS source, s.total_documents, c.total AS items, s.successful_documents, c.ingested,
            s.failed_documents, c.failed
        FROM sources s JOIN ({_COUNTED}) c ON c.id = s.id
        WHERE c.waiting = 0 AND NOT EXISTS (
                SELECT FROM source_scans p WHERE p.source = s.id AND p.finished_at IS NULL)
            AND (s.total_documents, s.successful_documents, s.failed_documents)
                IS DISTINCT FROM (c.total, c.ingested, c.failed)
        ORDER BY s.name
        """,
    )


def list_sources(connection: Connection) -> list[dict[str, Any]]:
    """All sources with their state, by name."""
    return dicts(
        connection,
        """
        SELECT name, source_type, is_active, sync_schedule, sync_status, last_sync_at, next_sync_at,
            total_documents, successful_documents, failed_documents, error_count, last_error
        FROM sources ORDER BY name, source_type
        """,
    )


def abandon(connection: Connection, name: str) -> int:
    """Give up an inactive source: all its items are gone, and their months' runs delete them; how many."""
    return connection.execute(
        f"""
        UPDATE source_items i SET state = {ItemState.GONE.sql} FROM sources s
        WHERE s.id = i.source AND s.name = %s AND NOT s.is_active AND i.state <> {ItemState.GONE.sql}
        """,
        (name,),
    ).rowcount


def is_due(connection: Connection, source_type: str, name: str, schedule: str, now: datetime) -> bool:
    """Whether the source was never synced, its time has come, its schedule changed, or a pass is unfinished."""
    due = value(
        connection,
        f"""
        SELECT s.next_sync_at IS NULL OR s.next_sync_at <= %(now)s OR s.sync_schedule IS DISTINCT FROM %(schedule)s
            OR NOT s.is_active OR EXISTS (
                SELECT FROM source_scans p WHERE p.source = s.id AND p.finished_at IS NULL AND s.sync_status = {SyncStatus.RUNNING.sql})
        FROM sources s WHERE s.source_type = %(type)s AND s.name = %(name)s
        """,
        {"type": source_type, "name": name, "schedule": schedule, "now": now},
    )
    return due is None or due
