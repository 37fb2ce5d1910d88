"""Scan: what a source holds now is merged into `source_items`. Nothing is fetched to find that nothing changed.

A pass walks a source in slices. After each slice its position is stored, so that a pass can be spread over many sensor
ticks, or be killed. What a complete pass did not see is gone. New documents are read for their dates, so a slice of them
ends when its time is over, wherever it is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_pipeline.errors import DocumentError, RagError, SourceError, one_line
from rag_pipeline.indexing.retention import oldest_kept_month
from rag_pipeline.indexing.source_access import store_access
from rag_pipeline.months import Month, clamp
from rag_pipeline.sources.interface import Item, ScanProblem
from rag_pipeline.sources.not_included import count, described
from rag_pipeline.stores.postgres import schema, source_items, sources
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline.stores.postgres.batches import in_batches
from rag_pipeline.stores.postgres.statuses import SyncStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig
    from rag_pipeline.sources.interface import Source

_SLICE = 1000
_SLICE_SECONDS = 5.0
"""A slice ends early if reading its new documents takes longer: a scan that is killed loses no more than that."""
_ITEMS = 5000
"""That one transaction changes, besides those of a slice."""
_A_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_SCHEDULED = 100


@dataclass
class ScanResult:
    """What one scan found."""

    source: str
    scanned: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    complete: bool = False
    """False if the deadline came first: the next scan resumes the pass."""
    problems: list[str] = field(default_factory=list)
    """What could not be listed; nothing there counts as gone."""
    not_included: dict[str, int] = field(default_factory=dict)
    """What is in the source and is no item, by kind: see `sources.not_included`."""
    was_unhealthy: bool = False
    """Whether the scan before this one failed, or could not list everything."""

    @property
    def has_news(self) -> bool:
        """Whether it found anything that was not so after the scan before it."""
        return bool(self.new or self.changed or self.gone or self.problems or self.was_unhealthy)

    def __str__(self) -> str:
        summary = f"{self.scanned} items: {self.new} new, {self.changed} changed, {self.gone} gone"
        if self.problems:
            summary = f"{summary}, {len(self.problems)} paths not listed"
        return f"{summary}; not included: {described(self.not_included)}" if self.not_included else summary

    def add(self, earlier: Counts, not_included: Mapping[str, int]) -> None:
        """Add what earlier scans of the same pass have counted."""
        for kind, number in not_included.items():
            count(self.not_included, kind, number)
        self.scanned += earlier.get("scanned", 0)
        self.new += earlier.get("new", 0)
        self.changed += earlier.get("changed", 0)

    def counts(self) -> Counts:
        """The fields of `IngestStats` that a scan counts."""
        return {"scanned": self.scanned, "new": self.new, "changed": self.changed}


def scan_source(
    pipeline: Pipeline,
    config: SourceConfig,
    *,
    deadline: float | None = None,
    confirm_deletions: bool = False,
    wait_seconds: float = 60,
) -> ScanResult:
    """Merge what the source holds into `source_items`, until a deadline (on the clock of `time.monotonic`).

    Raises `SourceError` if the source cannot be listed, and if a complete pass would find more than
    `RAG_MAX_DELETED_SHARE` of its items gone and `confirm_deletions` is not given: a wrong path or an unmounted disk
    must not empty the index. The error is stored in the source's row as well.
    """
    database = pipeline.stores.database
    with database.connection() as connection:
        store_access(connection, pipeline.sources_file)
    with (
        pipeline.stopwatch.stage("scan"),
        advisory_lock(database, f"source {config.name}", wait_seconds),
    ):
        with database.connection() as connection:
            before = sources.state_of(connection, config.type, config.name)
        # Registered within the lock: what the row says is what the last scan went by.
        source_id = _register(pipeline, config, before)
        try:
            result = _Pass(pipeline, config, source_id, confirm_deletions).run(deadline)
        except RagError as error:
            with database.connection() as connection:
                sources.fail_sync(connection, source_id, one_line(error), next_sync_at(config))
            raise
    result.was_unhealthy = before is not None and (
        before.sync_status == SyncStatus.FAILED or bool(before.problems)
    )
    return result


def _register(pipeline: Pipeline, config: SourceConfig, before: Any | None) -> UUID:
    """Create or update the row of a source and return its id; `before` is what it was.

    A source that has other settings than at its last scan, or is back, is looked at anew: also what was quarantined.
    """
    database, settings = pipeline.stores.database, config.connection_config()
    if before is not None and not (before.is_active and before.connection_config == settings):
        # Before the row has the new settings, so that a scan that is killed here is followed by one that does it too.
        retry_failed_items(pipeline, [config.name])
        with database.connection() as connection:
            sources.restart_pass(connection, before.id)
    with database.connection() as connection:
        source_id = sources.register(
            connection, config.type, config.name, settings, config.schedule, config.access
        )
        store_access(connection, pipeline.sources_file)
    return source_id


def retry_failed_items(pipeline: Pipeline, only_sources: Sequence[str] | None = None) -> int:
    """Make what could not be read pending, of all sources or the named ones; return the number of items."""
    return in_batches(
        pipeline.stores.database,
        lambda connection: source_items.retry_failed(connection, _ITEMS, only_sources),
        "items to retry",
    )


def next_sync_at(config: SourceConfig, now: datetime | None = None) -> datetime:
    """Return when the source is due next, by its cron schedule in UTC."""
    from croniter import croniter

    return croniter(config.schedule, now or datetime.now(UTC)).get_next(datetime)


def waits_until(pipeline: Pipeline, config: SourceConfig, now: datetime) -> datetime | None:
    """Return when the source is due for a scan; None if it is due now, or a pass over it is unfinished."""
    with pipeline.stores.database.connection() as connection:
        return sources.waits_until(
            connection, config.type, config.name, config.connection_config(), config.schedule, now
        )


def pauses(config: SourceConfig) -> list[timedelta]:
    """Return the pauses between the source's scheduled scans, for as many as tell the rhythm of a cron expression."""
    from croniter import croniter

    ticks = croniter(config.schedule, _A_MONDAY)
    moments = [ticks.get_next(datetime) for _ in range(_SCHEDULED)]
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


_CHUNKER, _CHUNK_TOKENS = "4", 400
"""What recipes of older programs had in these places: nothing is read anew because it is left out."""


def recipe(source: SourceConfig) -> str:
    """Return a digest of everything but its bytes that decides what a document becomes.

    That is the source's own metadata, and the versions of parser and words. It is stored with each item: an item that
    was ingested with another recipe is pending again. What only cuts it otherwise needs no bytes, see
    `index_vectors.reopen_incomplete`.
    """
    from rag_pipeline.documents.parsing.parser import PARSER_VERSION
    from rag_pipeline.language.words import WORDS_VERSION

    parts = [source.metadata_digest, PARSER_VERSION, _CHUNKER, WORDS_VERSION, _CHUNK_TOKENS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class _Listed(NamedTuple):
    """What a source has listed, and what the scan had passed by until then that is no item, by kind."""

    entry: Item | ScanProblem
    not_included: dict[str, int]


class _Pass:
    """A pass over one source: begun, or resumed where the last scan stopped."""

    def __init__(self, pipeline: Pipeline, config: SourceConfig, source_id: UUID, confirm_deletions: bool) -> None:
        from rag_pipeline.sources import connect

        self._pipeline = pipeline
        self._database = pipeline.stores.database
        self._config = config
        self._source = connect(config)
        self._source_id = source_id
        self._recipe = recipe(config)
        self._oldest_kept = oldest_kept_month(pipeline.settings)
        self._confirm_deletions = confirm_deletions

    def run(self, deadline: float | None) -> ScanResult:
        config = self._config
        with self._database.connection() as connection:
            position = sources.begin_or_resume_pass(connection, self._source_id)
        this_pass = source_items.Pass(
            config.type,
            self._source_id,
            position.number,
            self._recipe,
            self._oldest_kept.start if self._oldest_kept else None,
        )
        result = ScanResult(config.name, problems=list(position.problems))
        found = self._listed(position.resume_after)
        after = position.resume_after or ""
        waiting: list[_Listed] = []
        while listed := waiting + list(itertools.islice(found, _SLICE - len(waiting))):
            slice_end = min(time.monotonic() + _SLICE_SECONDS, math.inf if deadline is None else deadline)
            dates = self._dates([one.entry for one in listed if isinstance(one.entry, Item)], slice_end)
            slice_ = listed[: _dated(listed, dates)]
            waiting = listed[len(slice_) :]
            items = [one.entry for one in slice_ if isinstance(one.entry, Item)]
            unlisted = [one.entry for one in slice_ if isinstance(one.entry, ScanProblem)]
            problems = [f"{entry.path}: {entry.reason}" for entry in unlisted]
            # A folder that became unreadable since the last slice comes first, with a key before the position.
            until = max(slice_[-1].entry.key, after)
            keys = [entry.key for entry in unlisted]
            # In transactions of their own, as is every statement that locks several items.
            seen = [item.source_id for item in items]
            self._mark_missed(this_pass, source_items.Slice(seen, after, until, keys))
            with self._database.connection() as connection:
                new, changed = source_items.merge(
                    connection, this_pass, [(item, dates[item.source_id]) for item in items]
                )
                sources.advance_pass(connection, self._source_id, until, problems, keys)
            after = until
            result.scanned += len(items)
            result.new += new
            result.changed += changed
            result.problems += problems
            result.not_included = slice_[-1].not_included
            self._pipeline.progress(f"scan {config.name}", result.scanned)
            if deadline is not None and time.monotonic() > deadline:
                return result
        result.complete = True
        result.not_included = self._source.not_included
        self._mark_missed(this_pass, source_items.Slice([], after))
        result.gone = self._mark_gone(position.number)
        with self._database.connection() as connection:
            sources.finish_pass(connection, self._source_id, next_sync_at(config), len(result.problems))
        return result

    def _listed(self, after: str | None) -> Iterator[_Listed]:
        for entry in self._source.scan(after=after):
            yield _Listed(entry, dict(self._source.not_included))

    def _mark_missed(self, this_pass: source_items.Pass, where: source_items.Slice) -> None:
        with self._database.connection() as connection:
            if not source_items.has_missed(connection, this_pass, where):
                return
        in_batches(
            self._database,
            lambda connection: source_items.mark_missed(connection, this_pass, where, _ITEMS),
            f"what the scan of {self._config.name} has missed",
        )

    def _mark_gone(self, number: int) -> int:
        """Mark what the pass did not see as gone. A scan that is killed meanwhile is resumed with the rest."""
        with self._database.connection() as connection:
            gone, known = source_items.unseen(connection, self._source_id, number)
        limit = self._pipeline.settings.max_deleted_share
        name = self._config.name
        if gone > known * limit and not self._confirm_deletions:
            # The next scan has to start over: the end of this pass was not accepted.
            with self._database.connection() as connection:
                sources.restart_pass(connection, self._source_id)
            raise SourceError(
                f"source {name}: {gone} of its {known} documents are gone, more than RAG_MAX_DELETED_SHARE "
                f"({limit:.0%}) allows at once; nothing was deleted. If a disk or a share is not mounted there, mount it again; "
                f"only if they are really gone, run `rag-pipeline ingest --source {name} --confirm-deletions`"
            )
        return in_batches(
            self._database,
            lambda connection: source_items.mark_gone(connection, self._source_id, number, _ITEMS),
            f"what is gone from {name}",
        )

    def _dates(self, items: list[Item], end: float) -> dict[str, datetime]:
        """Return the times that decide the months of new items, by item, and create the months' partitions.

        Known items have any time: they keep what they were given when they were new. Items whose turn comes after `end`
        (on the clock of `time.monotonic`) are left out, except the first for each worker, so that there is always some
        progress. Months older than the retention get no partition: their items are not ingested.
        """
        settings = self._pipeline.settings
        with self._database.connection() as connection:
            new = source_items.new_ids(connection, self._config.type, [item.source_id for item in items])
        now = datetime.now(UTC)
        undated = [item for item in items if item.source_id in new]

        def date(number: int, item: Item) -> datetime | None:
            if number >= settings.parse_workers and time.monotonic() > end:
                return None
            moment = _own_date(self._pipeline, self._source, item) or item.modified_at or now
            return clamp(moment, settings.first_month, now)

        with ThreadPoolExecutor(settings.parse_workers, thread_name_prefix="date") as pool:
            dates = {
                item.source_id: moment
                for item, moment in zip(undated, pool.map(date, itertools.count(), undated), strict=True)
                if moment is not None
            }
        months = {Month.of(moment) for moment in dates.values()}
        oldest_kept = self._oldest_kept
        schema.ensure_months(
            self._database, [month for month in months if oldest_kept is None or month >= oldest_kept]
        )
        return {item.source_id: now for item in items if item.source_id not in new} | dates


def _dated(listed: Sequence[_Listed], dates: Mapping[str, datetime]) -> int:
    """Return how many entries there are before the first item without a date."""
    undated = (
        n for n, (entry, _) in enumerate(listed) if isinstance(entry, Item) and entry.source_id not in dates
    )
    return next(undated, len(listed))


def _own_date(pipeline: Pipeline, source: Source, item: Item) -> datetime | None:
    """Return the date that the document itself states; None if it states none, or is unreadable (its run says so)."""
    from rag_pipeline.documents.parsing.parser import HEAD_BYTES, needs_whole_file

    try:
        if needs_whole_file(item.name):
            data = source.fetch(item.locator, pipeline.settings.max_document_bytes)
        else:
            data = source.head(item.locator, HEAD_BYTES)
        return pipeline.parser_pool.created_at(data, item.name)
    except DocumentError:
        return None
