"""Ingest: scan the sources, then run every month with pending work. This is what `rag-pipeline ingest` does.

How a month is run is passed in: the command line runs the Dagster job, so that its runs show in the UI; tests and
programs can run the steps alone (`month_run.run_month`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import ConfigError, RagError, SourceError, StoreUnavailableError, one_line
from rag_pipeline.indexing.document_warnings import DocumentWarnings
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import reopen_incomplete
from rag_pipeline.indexing.month_run import MonthRun, MonthRuns, run_month
from rag_pipeline.indexing.retention import apply_retention
from rag_pipeline.indexing.scan import ScanResult, retry_failed_items, scan_source
from rag_pipeline.indexing.small_months import in_groups, small_months
from rag_pipeline.indexing.stats import IngestStats
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import documents, source_items, sources
from rag_pipeline.stores.postgres.batches import in_batches

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig, SourcesFile
    from rag_pipeline.stores.postgres.database import Connection

_ITEMS, _DOCUMENTS, _CHUNKS = 5000, 200, 5000
"""That one transaction changes."""

OnScan = Callable[["Pipeline", "SourceConfig", "ScanResult | None"], None]
"""Called after each scan of a source; without a result if it failed."""
RunMonth = Callable[["Pipeline", Month, MonthRun], None]
"""Runs a month and adds what it does to the `MonthRun`; raises a `RagError` if the month fails."""
RunMonths = Callable[["Pipeline", Sequence[Month], MonthRuns], None]
"""Runs months one after the other, and tells the `MonthRuns` how each ended; a month that another run works on is left.

Raises `StoreUnavailableError` if a store is down, and a `RagError` if it fails for another reason than a month.
"""


@dataclass
class IngestResult:
    """What an ingest did."""

    stats: IngestStats = field(default_factory=IngestStats)
    months: list[Month] = field(default_factory=list)
    """The months that were run."""
    errors: list[str] = field(default_factory=list)
    """Sources that could not be scanned and months whose run failed, one line each; the others went on."""
    warnings: list[str] = field(default_factory=list)
    unconfigured: list[str] = field(default_factory=list)
    """Sources found missing from `sources.yaml` by this ingest; their documents stay until `sources --remove`."""
    not_included: dict[str, dict[str, int]] = field(default_factory=dict)
    """By source, what is in it and is no item, by kind: see `sources.not_included`."""
    document_warnings: DocumentWarnings = field(default_factory=DocumentWarnings)
    """What was lost or guessed in documents that were parsed."""
    embedding_tokens: int = 0
    """Tokens that an embedding server reported."""

    @property
    def complete(self) -> bool:
        """Whether everything that the sources hold is searchable now, and nothing was quarantined on the way."""
        return not (self.errors or self.stats.failed or self.stats.failed_chunks)

    def as_json(self, seconds: dict[str, float]) -> dict[str, Any]:
        """What `rag-pipeline ingest --json` prints; `seconds` by stage."""
        return {
            **self.stats.as_dict(),
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "not_included": self.not_included,
            "months": [str(month) for month in self.months],
            "warnings": self.warnings,
            "documents_with_warnings": self.document_warnings.count,
            "document_warnings": self.document_warnings.as_json(),
            "errors": self.errors,
        }


def ingest(
    pipeline: Pipeline,
    *,
    only_sources: Sequence[str] = (),
    only_months: Sequence[Month] = (),
    also_months: Sequence[Month] = (),
    confirm_deletions: bool = False,
    retry_failed: bool = False,
    reread: bool = False,
    run: RunMonth = run_month,
    run_together: RunMonths | None = None,
    on_scan: OnScan = lambda pipeline, source, result: None,
    result: IngestResult | None = None,
) -> IngestResult:
    """Bring the index up to date with the sources.

    With `reread`, every document of the sources and months is read again, also if nothing of it has changed: what is
    equal keeps its chunks and vectors. `also_months` are run even if they have no pending work; `run_together`, if given,
    runs those with little to do. What is done is added to `result` at once, so that its owner knows it whatever happens;
    the same object is returned.

    A source whose entry in `sources.yaml` has a mistake is an error of the result; the others are ingested. Raises
    `ConfigError` if the file cannot be read, `StoreUnavailableError` if a store is down, and `DimensionMismatchError`
    or a `RagError` if the collections hold another embedder's vectors. What was done stays, and the next ingest
    resumes.
    """
    result = IngestResult() if result is None else result
    file = pipeline.sources_file
    if not file.is_readable:
        raise ConfigError(file.invalid[0].message)
    # Also if nothing is to be embedded: a mistake is said at once, not with the first edit.
    pipeline.generation.refuse_another_embedder()
    chosen_sources = [pipeline.source(name).name for name in only_sources] or [
        source.name for source in file.sources
    ]
    if not only_sources:
        result.errors += [entry.message for entry in file.invalid]
    result.unconfigured = deactivate_unconfigured(pipeline, file)
    if retry_failed:
        retry_failed_items(pipeline, only_sources or None)
        retry_failed_documents(pipeline, only_sources or None)
    _scan(pipeline, chosen_sources, confirm_deletions, on_scan, result)
    if reread:
        months_or_all: Sequence[Month | None] = only_months or [None]
        for month in months_or_all:
            reread_items(pipeline, chosen_sources, month)
    result.warnings += apply_retention(pipeline).busy
    # Before the months: documents that somebody deleted and whose sources still hold them become pending.
    result.stats.add(deletion_counts(drain_deletions(pipeline)))
    reopen_incomplete(pipeline)
    with pipeline.stores.database.connection() as connection:
        months = {*documents.months_with_work(connection), *also_months}
    chosen = sorted(months & set(only_months) if only_months else months)
    _run_months(pipeline, chosen, run, run_together, result)
    result.months.sort()
    result.stats.add(deletion_counts(drain_deletions(pipeline)))
    result.warnings += [
        f"source {name} is no longer in {pipeline.settings.sources}; its documents stay until "
        f"`rag-pipeline sources --remove {name}`"
        for name in result.unconfigured
    ]
    return result


def deactivate_unconfigured(pipeline: Pipeline, file: SourcesFile) -> list[str]:
    """Mark sources that the file no longer lists as inactive, and return their names.

    None if the file cannot be read, or an entry with a mistake has no name of its own: it could be theirs.
    """
    mistaken = [entry.name for entry in file.invalid if entry.name is not None]
    if len(mistaken) < len(file.invalid):
        return []
    configured = [(source.type, source.name) for source in file.sources]
    with pipeline.stores.database.connection() as connection:
        return sources.deactivate_unconfigured(connection, configured, mistaken)


def remove_source(pipeline: Pipeline, name: str) -> int:
    """Have the next ingest delete the documents of a source that is not configured; return the number of its items."""
    return in_batches(
        pipeline.stores.database, lambda connection: sources.remove(connection, name, _ITEMS), f"removing {name}"
    )


def reread_items(pipeline: Pipeline, names: Sequence[str], month: Month | None = None) -> int:
    """Have the next runs read every item of these sources, of a month or (None) of all, again; return their number."""
    last = "", ""

    def some(connection: Connection) -> int:
        nonlocal last
        count, last = source_items.reread(connection, _ITEMS, last, names, month)
        return count

    return in_batches(pipeline.stores.database, some, "items to read again")


def retry_failed_documents(
    pipeline: Pipeline,
    only_sources: Sequence[str] | None = None,
    hold: Callable[[Connection], object] = lambda connection: None,
) -> int:
    """Make what could not be embedded pending, of all sources or the named ones; return the number of documents.

    `hold` begins each transaction: what has to stay as it is until that ends.
    """
    database, what = pipeline.stores.database, "documents to retry"

    def some_documents(connection: Connection) -> int:
        hold(connection)
        return documents.retry_failed(connection, _DOCUMENTS, only_sources)

    def some_chunks(connection: Connection) -> int:
        hold(connection)
        return documents.retry_failed_chunks(connection, _CHUNKS, only_sources)

    number = in_batches(database, some_documents, what)
    in_batches(database, some_chunks, what)
    return number


def _scan(
    pipeline: Pipeline,
    names: Sequence[str],
    confirm_deletions: bool,
    on_scan: OnScan,
    result: IngestResult,
) -> None:
    for name in names:
        try:
            config = pipeline.source(name)  # As it is now: the scans before can have taken long.
        except (SourceError, ConfigError) as error:
            result.errors.append(one_line(error))
            continue
        try:
            scanned = scan_source(pipeline, config, confirm_deletions=confirm_deletions)
        except StoreUnavailableError:
            raise
        except RagError as error:
            result.errors.append(one_line(error))
            if isinstance(error, SourceError):
                on_scan(pipeline, config, None)
            continue
        on_scan(pipeline, config, scanned)
        result.stats.add(scanned.counts())
        if scanned.not_included:
            result.not_included[name] = scanned.not_included
        result.warnings += [
            f"source {config.name}: {problem}; nothing there is treated as gone" for problem in scanned.problems
        ]


def _run_months(
    pipeline: Pipeline,
    months: Sequence[Month],
    run: RunMonth,
    run_together: RunMonths | None,
    result: IngestResult,
) -> None:
    if not months:
        return
    # With Ray it is the workers that need it.
    if (result.stats.new or result.stats.changed) and pipeline.settings.ray_address is None:
        pipeline.load_ahead()  # While the first month's run begins, and reads its documents.
    pipeline.collections.check()
    running = _RunningMonths(pipeline, len(months), result)
    running.report()
    try:
        with pipeline.collections.flushing_later():
            if run_together is not None:
                for group in in_groups(small_months(pipeline, months)):
                    running.together(group, run_together)
            running.each([month for month in months if month not in result.months], run)
    except StoreUnavailableError:
        with suppress(StoreUnavailableError):  # The first one says more.
            pipeline.collections.settle()
        raise
    with pipeline.stopwatch.stage("settle"):
        pipeline.collections.settle()


class _RunningMonths:
    """Runs months, and adds what each does to the result as soon as it has ended."""

    def __init__(self, pipeline: Pipeline, count: int, result: IngestResult) -> None:
        self._pipeline = pipeline
        self._count = count
        self._result = result

    def together(self, months: Sequence[Month], run_together: RunMonths) -> None:
        """Run months together. What is left of them is to be run alone."""
        runs = MonthRuns(self._end)
        try:
            run_together(self._pipeline, months, runs)
        except StoreUnavailableError:
            raise
        except RagError as error:
            self._result.errors.append(one_line(error))
        self._result.errors += [f"{month}: {reason}" for month, reason in runs.failed.items()]

    def each(self, months: Sequence[Month], run: RunMonth) -> None:
        """Run months alone."""
        for month in months:
            done = MonthRun()
            try:
                run(self._pipeline, month, done)
            except StoreUnavailableError:
                raise
            except RagError as error:
                self._result.errors.append(f"{month}: {one_line(error)}")
            self._end(month, done)

    def report(self) -> None:
        """Tell how many months have ended."""
        self._pipeline.progress("months", len(self._result.months), self._count)

    def _end(self, month: Month, done: MonthRun) -> None:
        result = self._result
        result.stats.add(done.stats.as_dict())
        result.document_warnings.merge(done.warnings)
        result.embedding_tokens += done.embedding_tokens
        result.months.append(month)
        unreachable = dict.fromkeys(done.unreachable)
        result.errors += [reason for reason in unreachable if reason not in result.errors]
        self.report()
