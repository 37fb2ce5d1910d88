"""Scan: what a source holds now is merged into `source_items`. Nothing is fetched to find that nothing changed.

A pass goes through a source in slices; after each it is remembered how far it came, so that a pass may be spread
over many sensor ticks, or be killed. What a complete pass did not see is gone.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag_pipeline.errors import DocumentError, RagError, SourceError, one_line
from rag_pipeline.indexing.recipe import recipe
from rag_pipeline.indexing.retention import horizon_of
from rag_pipeline.months import Month, clamp
from rag_pipeline.sources.interface import Item, ScanProblem
from rag_pipeline.stores.postgres import schema, source_items, sources
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock

if TYPE_CHECKING:
    from uuid import UUID

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig
    from rag_pipeline.sources.interface import Source
    from rag_pipeline.stores.postgres.database import Connection

_SLICE = 1000


@dataclass
class ScanResult:
    """What one scan found."""

    source: str
    scanned: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    complete: bool = False
    """False where the deadline came first: the next scan goes on from there."""
    problems: list[str] = field(default_factory=list)
    """What could not be listed; nothing there counts as gone."""


def scan_source(
    pipeline: Pipeline,
    config: SourceConfig,
    *,
    deadline: float | None = None,
    confirm_deletions: bool = False,
    wait_seconds: float = 60,
) -> ScanResult:
    """Merge what the source holds into `source_items`, up to a deadline (`time.monotonic()`).

    Raises `SourceError` where the source cannot be listed, and where a complete pass would find more than
    `RAG_MAX_DELETED_SHARE` of its items gone and `confirm_deletions` is not given: a wrong path or an unmounted
    disk must not empty the index. The error is stored in the source's row, too.
    """
    database = pipeline.stores.database
    with database.connection() as connection:
        source_id = sources.register(
            connection, config.type, config.name, config.connection_config(), config.schedule
        )
    with (
        pipeline.tally.stage("scan"),
        advisory_lock(database, f"source {config.name}", wait_seconds),
    ):
        try:
            result = _scan(pipeline, config, source_id, deadline, confirm_deletions)
        except RagError as error:
            with database.connection() as connection:
                sources.fail_sync(connection, source_id, one_line(error), next_sync_at(config))
            raise
    tally = pipeline.tally
    tally.scanned += result.scanned
    tally.new += result.new
    tally.changed += result.changed
    return result


def next_sync_at(config: SourceConfig, now: datetime | None = None) -> datetime:
    """When the source is due next, by its cron schedule in UTC."""
    from croniter import croniter

    return croniter(config.schedule, now or datetime.now(UTC)).get_next(datetime)


def _scan(
    pipeline: Pipeline, config: SourceConfig, source_id: UUID, deadline: float | None, confirm_deletions: bool
) -> ScanResult:
    from rag_pipeline.sources import connect

    database = pipeline.stores.database
    source = connect(config)
    the_recipe = recipe(config, pipeline.settings)
    horizon = horizon_of(pipeline.settings)
    with database.connection() as connection:
        position = sources.begin_or_resume_pass(connection, source_id)
    this_pass = source_items.Pass(
        config.type, source_id, position.number, the_recipe, horizon.start if horizon else None
    )
    result = ScanResult(config.name, problems=list(position.problems))
    found = source.scan(after=position.resume_after)
    for slice_ in iter(lambda: list(itertools.islice(found, _SLICE)), []):
        items = [entry for entry in slice_ if isinstance(entry, Item)]
        unlisted = [entry for entry in slice_ if isinstance(entry, ScanProblem)]
        problems = [f"{entry.path}: {entry.reason}" for entry in unlisted]
        dated = _dated(pipeline, config, source, items, horizon)
        with database.connection() as connection:
            new, changed = source_items.merge(connection, this_pass, dated)
            # A folder that became unreadable since the last slice is told first, with a key behind us.
            after = max(slice_[-1].key, position.resume_after or "")
            sources.advance_pass(connection, source_id, after, problems, [entry.key for entry in unlisted])
        result.scanned += len(items)
        result.new += new
        result.changed += changed
        result.problems += problems
        pipeline.progress(f"scan {config.name}", result.scanned)
        if deadline is not None and time.monotonic() > deadline:
            return result
    result.complete = True
    with database.connection() as connection:
        result.gone = _mark_gone(pipeline, config, connection, source_id, position.number, confirm_deletions)
        sources.finish_pass(connection, source_id, next_sync_at(config), len(result.problems))
    return result


def _mark_gone(
    pipeline: Pipeline,
    config: SourceConfig,
    connection: Connection,
    source_id: UUID,
    number: int,
    confirmed: bool,
) -> int:
    gone, known = source_items.unseen(connection, source_id, number)
    limit = pipeline.settings.max_deleted_share
    if gone > known * limit and not confirmed:
        # The next scan has to begin anew: this one's end was not accepted.
        sources.restart_pass(connection, source_id)
        connection.commit()
        raise SourceError(
            f"source {config.name}: {gone} of its {known} documents are no longer there, more than "
            f"RAG_MAX_DELETED_SHARE ({limit:.0%}) allows at once; nothing was deleted. If they are meant to go: "
            f"rag-pipeline ingest --source {config.name} --confirm-deletions"
        )
    return source_items.mark_gone(connection, source_id, number)


def _dated(
    pipeline: Pipeline, config: SourceConfig, source: Source, items: list[Item], horizon: Month | None
) -> list[tuple[Item, datetime]]:
    """The items, each with the time that decides its month if it is new, and the months' partitions made.

    Months before the `horizon` get none: their items are not ingested.
    """
    settings = pipeline.settings
    with pipeline.stores.database.connection() as connection:
        new = source_items.new_ids(connection, config.type, [item.source_id for item in items])
    now = datetime.now(UTC)

    def date(item: Item) -> tuple[Item, datetime]:
        if item.source_id not in new:
            return item, now  # Stored already, with a date of its own.
        moment = _own_date(source, item, settings.max_document_bytes) or item.modified_at or now
        return item, clamp(moment, settings.first_month, now)

    with ThreadPoolExecutor(settings.parse_workers, thread_name_prefix="date") as pool:
        dated = list(pool.map(date, items))
    months = {Month.of(moment) for item, moment in dated if item.source_id in new}
    schema.ensure_months(
        pipeline.stores.database, [month for month in months if horizon is None or month >= horizon]
    )
    return dated


def _own_date(source: Source, item: Item, max_bytes: int) -> datetime | None:
    """The date that the document gives itself; None where it gives none, or cannot be read (told later, by its run)."""
    from rag_pipeline.documents.parsing.parser import HEAD_BYTES, created_at, needs_whole_file

    try:
        if needs_whole_file(item.name):
            head = source.fetch(item.locator, max_bytes)
        else:
            head = source.head(item.locator, HEAD_BYTES)
    except DocumentError:
        return None
    return created_at(head, item.name)


def is_due(pipeline: Pipeline, config: SourceConfig, now: datetime) -> bool:
    """Whether it is the source's time, or a pass over it is unfinished."""
    with pipeline.stores.database.connection() as connection:
        return sources.is_due(connection, config.type, config.name, config.schedule, now)
