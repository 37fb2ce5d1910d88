"""Ingest: scan the sources, then run every month with pending work. This is what `rag-pipeline ingest` does.

How a month is run is passed in: the command line runs the Dagster job, so that its runs show in the UI; tests and
programs can run the steps alone (`month_run.run_month`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_pipeline.errors import ConfigError, RagError, SourceError, StoreUnavailableError, one_line
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import reopen_incomplete
from rag_pipeline.indexing.month_run import MonthRun, run_month
from rag_pipeline.indexing.retention import apply_retention
from rag_pipeline.indexing.scan import ScanResult, scan_source
from rag_pipeline.indexing.stats import IngestStats
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import documents, source_items, sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig, SourcesFile

OnScan = Callable[["Pipeline", "SourceConfig", "ScanResult | None"], None]
"""Called after each scan of a source; without a result if it failed."""
RunMonth = Callable[["Pipeline", Month, MonthRun], None]
"""Runs a month and adds what it does to the `MonthRun`; raises a `RagError` if the month fails."""


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
            "months": [str(month) for month in self.months],
            "warnings": self.warnings,
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
    run: RunMonth = run_month,
    on_scan: OnScan = lambda pipeline, source, result: None,
    result: IngestResult | None = None,
) -> IngestResult:
    """Bring the index up to date with the sources.

    `also_months` are run even if they have no pending work. What is done is added to `result` at once, so that its
    owner knows it whatever happens; the same object is returned.

    A source whose entry in `sources.yaml` has a mistake is an error of the result; the others are ingested. Raises
    `ConfigError` if the file cannot be read, `StoreUnavailableError` if a store is down, and `DimensionMismatchError`
    or a `RagError` if the collections hold another embedder's vectors. What was done stays, and the next ingest
    resumes.
    """
    result = IngestResult() if result is None else result
    file = pipeline.sources_file
    if not file.is_readable:
        raise ConfigError(file.invalid[0].message)
    configured = [pipeline.source(name) for name in only_sources] or file.sources
    if not only_sources:
        result.errors += [entry.message for entry in file.invalid]
    result.unconfigured = deactivate_unconfigured(pipeline, file)
    if retry_failed:
        with pipeline.stores.database.connection() as connection:
            source_items.retry_failed(connection, only_sources or None)
            documents.retry_failed(connection, only_sources or None)
    _scan(pipeline, configured, confirm_deletions, on_scan, result)
    result.warnings += apply_retention(pipeline).busy
    # Before the months: documents that somebody deleted and whose sources still hold them become pending.
    result.stats.add(deletion_counts(drain_deletions(pipeline)))
    reopen_incomplete(pipeline)
    with pipeline.stores.database.connection() as connection:
        months = {*documents.months_with_work(connection), *also_months}
    _run_months(pipeline, sorted(months & set(only_months) if only_months else months), run, result)
    result.stats.add(deletion_counts(drain_deletions(pipeline)))
    result.warnings += [
        f"source {name} is no longer in {pipeline.settings.sources}; its documents stay until "
        f"`rag-pipeline sources --remove {name}`"
        for name in result.unconfigured
    ]
    return result


def deactivate_unconfigured(pipeline: Pipeline, file: SourcesFile) -> list[str]:
    """Mark sources that the file no longer lists as inactive, and return their names.

    None if the file has a mistake: the entry with the mistake could be theirs.
    """
    if file.invalid:
        return []
    with pipeline.stores.database.connection() as connection:
        return sources.deactivate_unconfigured(connection, [(source.type, source.name) for source in file.sources])


def _scan(
    pipeline: Pipeline,
    configured: Sequence[SourceConfig],
    confirm_deletions: bool,
    on_scan: OnScan,
    result: IngestResult,
) -> None:
    for config in configured:
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
        result.warnings += [
            f"source {config.name}: {problem}; nothing there is treated as gone" for problem in scanned.problems
        ]


def _run_months(pipeline: Pipeline, months: Sequence[Month], run: RunMonth, result: IngestResult) -> None:
    if not months:
        return
    pipeline.collections.check()
    try:
        with pipeline.collections.flushing_later():
            _run_each(pipeline, months, run, result)
    except StoreUnavailableError:
        with suppress(StoreUnavailableError):  # The first one says more.
            pipeline.collections.settle()
        raise
    with pipeline.stopwatch.stage("settle"):
        pipeline.collections.settle()


def _run_each(pipeline: Pipeline, months: Sequence[Month], run: RunMonth, result: IngestResult) -> None:
    unreachable: list[str] = []
    for number, month in enumerate(months):
        pipeline.progress("months", number, len(months))
        done = MonthRun()
        try:
            run(pipeline, month, done)
        except StoreUnavailableError:
            raise
        except RagError as error:
            result.errors.append(f"{month}: {one_line(error)}")
        result.stats.add(done.stats.as_dict())
        result.embedding_tokens += done.embedding_tokens
        result.months.append(month)
        unreachable += done.unreachable
    result.errors += [reason for reason in dict.fromkeys(unreachable) if reason not in result.errors]
