"""Documents: a month's pending items are fetched, parsed and stored; gone items are deleted.

An item that cannot be read is quarantined with its reason and never stops a run; its previous version stays.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rag_pipeline.errors import ConfigError, DocumentError, SourceError, VanishedError, one_line
from rag_pipeline.indexing.document_warnings import DocumentWarnings, date_warning
from rag_pipeline.indexing.scan import recipe
from rag_pipeline.stores.postgres import documents, index_epochs, schema, source_items, sources
from rag_pipeline.stores.postgres.deadlocks import despite_deadlocks
from rag_pipeline.stores.postgres.documents import DocumentRow
from rag_pipeline.stores.postgres.source_items import Outcome, PendingItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from rag_pipeline.distributed.fleet import MemberReport
    from rag_pipeline.distributed.parsing import DistantParsers
    from rag_pipeline.documents.parsing.parsed_document import ParsedDocument
    from rag_pipeline.documents.parsing.parser_pool import ParserPool
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig
    from rag_pipeline.sources.interface import Source

_BATCH = 256
_GROUP_CHARS = 4_000_000
_DELETE_BATCH = 200
_CONFIG_SECONDS = 1.0


@dataclass
class DocumentsResult:
    """What a month's documents step did."""

    stored: int = 0
    unchanged: int = 0
    """Touched, but with the same bytes as before."""
    deleted: int = 0
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    """(source_id, reason)"""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Source → reason. Its items stay pending: they are not to blame."""
    touched: set[UUID] = field(default_factory=set)
    """The rows of the sources whose documents were stored, quarantined or deleted."""
    warnings: DocumentWarnings = field(default_factory=DocumentWarnings)
    """What was lost or guessed in documents that were stored."""
    workers: list[MemberReport] = field(default_factory=list)
    """What each node of a Ray cluster parsed; empty if this machine parsed."""

    def counts(self) -> Counts:
        """The fields of `IngestStats` that this step counts."""
        return {"documents": self.stored, "deleted": self.deleted, "failed": len(self.quarantined)}


def ingest_documents(pipeline: Pipeline, month: Month) -> DocumentsResult:
    """Bring a month's documents up to date with their sources."""
    result = DocumentsResult()
    with pipeline.stopwatch.stage("delete"):
        _delete_gone(pipeline, month, result)
    with pipeline.stopwatch.stage("documents"):
        _ingest_pending(pipeline, month, result)
    if result.touched:
        with pipeline.stores.database.connection() as connection:
            sources.refresh_statistics(connection, list(result.touched))
    return result


def _delete_gone(pipeline: Pipeline, month: Month, result: DocumentsResult) -> None:
    def delete() -> list[UUID]:
        with pipeline.stores.database.connection() as connection:
            return source_items.delete_gone(connection, month, _DELETE_BATCH)

    while True:
        deleted = despite_deadlocks(delete, f"{month}: documents that are gone")
        result.deleted += len(deleted)
        result.touched.update(deleted)
        if len(deleted) < _DELETE_BATCH:
            return
        pipeline.progress(f"{month} delete", result.deleted)


def _ingest_pending(pipeline: Pipeline, month: Month, result: DocumentsResult) -> None:
    after = ("", "")
    done = total = 0
    with (
        _parsers(pipeline, month, result) as (parsers, at_once),
        ThreadPoolExecutor(at_once, thread_name_prefix="parse") as threads,
        _ended_by_interrupts(parsers),
    ):
        warned: dict[str, tuple[str, ...]] = {}
        reader = _Reader(pipeline, parsers, result.unreachable, warned)
        while True:
            with pipeline.stores.database.connection() as connection:
                batch = source_items.pending(connection, month, _BATCH, after)
                if not done:
                    is_all = len(batch) < _BATCH
                    total = len(batch) if is_all else source_items.pending_up_to(connection, month)
            if not batch:
                return
            if not done:
                # Scans create it for new items; a month that expired and is kept again has none.
                schema.ensure_months(pipeline.stores.database, [month])
            after = (batch[-1].source_type, batch[-1].source_id)
            for group in _groups(_read(threads, reader, batch, at_once)):
                _store(pipeline, month, group, result)
                result.warnings.add(_with_warnings(group, warned))
            done += len(batch)
            # A scan can find more meanwhile.
            pipeline.progress(f"{month} documents", done, max(done, total))


@contextmanager
def _parsers(
    pipeline: Pipeline, month: Month, result: DocumentsResult
) -> Iterator[tuple[ParserPool | DistantParsers, int]]:
    """Yield what parses, here or on the nodes of a cluster, and how many documents are read at the same time."""
    settings = pipeline.settings
    if settings.ray_address is not None:
        with pipeline.stores.database.connection() as connection:
            least = settings.ray_from_documents
            is_large = source_items.pending_up_to(connection, month, least) >= least
        if is_large:
            from rag_pipeline.distributed.parsing import parsing

            with parsing(settings) as parsers:
                yield parsers, max(settings.parse_workers, 2 * parsers.at_once)
                result.workers = parsers.reports()
            return
    yield pipeline.parser_pool, settings.parse_workers


@contextmanager
def _ended_by_interrupts(pool: ParserPool | DistantParsers) -> Iterator[None]:
    """End the parsing of documents on Ctrl-C: the threads that wait for it would hold up the end of the run."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        pool.close()
        raise


def _read(
    threads: ThreadPoolExecutor, reader: _Reader, items: Sequence[PendingItem], at_once: int
) -> Iterator[tuple[Outcome, DocumentRow | None]]:
    """Yield what became of the items as they are read, of at most `at_once` while the first is not taken."""
    running: set[Future[tuple[Outcome, DocumentRow | None] | None]] = set()
    for item in items:
        if len(running) == at_once:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (read for future in done if (read := future.result()) is not None)
        running.add(threads.submit(reader.read, item))
    yield from (read for future in as_completed(running) if (read := future.result()) is not None)


def _groups(
    reads: Iterable[tuple[Outcome, DocumentRow | None]],
) -> Iterator[list[tuple[Outcome, DocumentRow | None]]]:
    """Group what is stored together, so that large documents do not add up in memory."""
    group: list[tuple[Outcome, DocumentRow | None]] = []
    characters = 0
    for outcome, row in reads:
        group.append((outcome, row))
        characters += len(row.content) if row else 0
        if characters >= _GROUP_CHARS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _store(
    pipeline: Pipeline,
    month: Month,
    read: list[tuple[Outcome, DocumentRow | None]],
    result: DocumentsResult,
) -> None:
    # In the order of `source_items.pending`, in which everybody locks items.
    read.sort(key=lambda entry: (entry[0].item.source_type, entry[0].item.source_id))
    rows = [row for _, row in read if row is not None]
    failures = [outcome for outcome, _ in read if outcome.error is not None]
    unchanged = [outcome.item for outcome, row in read if outcome.error is None and row is None]
    with pipeline.stores.database.connection() as connection:
        documents.upsert(connection, rows)
        documents.quarantine(
            connection, [(o.item.document_id, o.item.created_at, o.error or "") for o in failures]
        )
        unchanged_keys = [(item.document_id, item.created_at) for item in unchanged]
        documents.restore(connection, unchanged_keys, pipeline.generation.chunker)
        source_items.record(connection, [outcome for outcome, _ in read])
        if rows:  # Hits show their metadata at once, also of the version that is still searched.
            index_epochs.advance(connection, month)
    result.stored += len(rows)
    result.unchanged += len(unchanged)
    result.quarantined += [(outcome.item.source_id, outcome.error or "") for outcome in failures]
    result.touched.update(outcome.item.source_key for outcome, _ in read)


def _with_warnings(
    read: list[tuple[Outcome, DocumentRow | None]], warned: dict[str, tuple[str, ...]]
) -> list[tuple[datetime, str, str]]:
    """Return the documents that were stored with warnings, and forget their warnings."""
    return [
        (row.created_at, row.source_id, "; ".join(warnings))
        for _, row in read
        if row is not None and (warnings := warned.pop(row.source_id, ()))
    ]


class _Reader:
    """Fetches and parses items, from several threads.

    Notes in `unreachable` why a source cannot be reached, and in `warned` what was lost or guessed in a document.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        parsers: ParserPool | DistantParsers,
        unreachable: dict[str, str],
        warned: dict[str, tuple[str, ...]],
    ) -> None:
        self._pipeline = pipeline
        self._parsers = parsers
        self._unreachable = unreachable
        self._warned = warned
        self._connected: dict[str, tuple[SourceConfig, Source]] = {}
        self._configured: dict[str, tuple[float, SourceConfig, str]] = {}

    def read(self, item: PendingItem) -> tuple[Outcome, DocumentRow | None] | None:
        """Return what became of an item, and its document's row; no row and no error if its bytes are unchanged.

        None if its source cannot be reached or is not configured, or if it has vanished: they stay pending.
        """
        if item.source in self._unreachable:
            return None
        try:
            config, wanted = self._config(item.source)
            if wanted != item.recipe:
                # Seen by a scan with other settings than it is read with; until another one it is not up to date.
                item = replace(item, recipe=wanted, content_hash=None)
            data = self._source(config).fetch(item.locator, self._pipeline.settings.max_document_bytes)
            digest = hashlib.sha256(data).hexdigest()
            if digest == item.content_hash:
                return Outcome(item, digest), None
            parsed = self._parsers.parse(data, item.name, language=config.language)
            of_date = date_warning(parsed.stated_date, item.created_at, self._pipeline.settings.first_month)
            if warnings := (*parsed.warnings, *filter(None, [of_date])):
                self._warned[item.source_id] = warnings
            return Outcome(item, digest), _row(item, config, parsed)
        except (VanishedError, ConfigError):
            return None
        except DocumentError as error:
            return Outcome(item, error=one_line(error)), None
        except SourceError as error:
            self._unreachable[item.source] = one_line(error)
            return None

    def _config(self, source: str) -> tuple[SourceConfig, str]:
        """Return the entry of a source and its recipe, at most a second old: for each item they would cost a tenth."""
        known, now = self._configured.get(source), time.monotonic()
        if known is None or now - known[0] > _CONFIG_SECONDS:
            config = self._pipeline.source(source)
            known = self._configured[source] = now, config, recipe(config)
        return known[1], known[2]

    def _source(self, config: SourceConfig) -> Source:
        from rag_pipeline.sources import connect

        known = self._connected.get(config.name)
        if known is None or known[0] != config:  # Its entry can be edited during a run.
            known = self._connected[config.name] = config, connect(config)
        return known[1]


def _row(item: PendingItem, config: SourceConfig, parsed: ParsedDocument) -> DocumentRow:
    return DocumentRow(
        id=item.document_id,
        created_at=item.created_at,
        title=parsed.title,
        content=parsed.markdown,
        source_type=item.source_type,
        source_id=item.source_id,
        source_url=item.url,
        author=parsed.author,
        language=parsed.language or "ja",
        category=parsed.category or config.category,
        tags=list(dict.fromkeys([*config.tags, *parsed.tags])),
    )
