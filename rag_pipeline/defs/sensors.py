"""The sensors: one per source that scans it, one that runs the months with pending work, one for deletions.

They run by default. A tick ends well within Dagster's limit of 60 s: a scan stops at its deadline and resumes at
the next tick.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from rag_pipeline.defs.index_months import config_of
from rag_pipeline.defs.jobs import (
    CHECK_MONTH,
    INDEX_MONTH,
    INDEX_MONTHS,
    index_month,
    months_failed_since,
    months_in_runs,
    succeeded_since,
)
from rag_pipeline.defs.month_partitions import MONTHS_TAG, month_of_key, months_tag, show_months
from rag_pipeline.defs.resources import opened
from rag_pipeline.defs.run_owners import end_ownerless_runs
from rag_pipeline.defs.source_check import record_scan
from rag_pipeline.errors import BusyError, ConfigError, SourceError, one_line
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.ingest import deactivate_unconfigured
from rag_pipeline.indexing.run_selection import RequestedRun, due_months, pending_work, times_requested
from rag_pipeline.indexing.scan import pauses, scan_source, waits_until
from rag_pipeline.indexing.small_months import in_groups, small_months
from rag_pipeline.indexing.stats import Counts
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.sources.config import SourceConfig, SourcesFile, read_sources
from rag_pipeline.sources.naming import sensor_name
from rag_pipeline.stores.postgres import alert_outbox, vector_deletions

NOT_DUE = "is not due yet"
"""Part of the skip reason of a tick that did not scan: such a tick says nothing about the source's health."""

_SCAN_SECONDS = 30
_DRAIN_SECONDS = 20
_MONTHS_PER_TICK = 12
_SMALL_MONTHS_PER_TICK = 200
_TIMES_TOGETHER = 2
_RETRY_PAUSE = timedelta(minutes=1)
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 15, 60
_TICKS_PER_PAUSE = 5


def sync_sensor(
    path: Path, config: SourceConfig, pipeline_override: Pipeline | None = None
) -> dg.SensorDefinition:
    """Return the sensor that scans a source at its schedule; new, changed and gone items become pending work.

    It goes by the source's entry in the file at `path` as it is at each tick: scans by the entry that was loaded would
    undo what `rag-pipeline ingest` does by the one that somebody has edited since.

    Dagster's sensors have an interval and no cron, so most ticks come too early. The cursor says when the next scan is,
    and such a tick opens no connection; a resource would be opened for each.
    """
    rhythm = min(pauses(config)).total_seconds() / _TICKS_PER_PAUSE
    interval = int(min(max(rhythm, _SHORTEST_INTERVAL), _LONGEST_INTERVAL))
    description = (
        f"Scans the source {config.name} ({config.schedule}). The sensor index_pending_months runs "
        "the months with new, changed or gone items."
    )
    return _sync_sensor(path, config.name, interval, description, pipeline_override)


def invalid_sensor(
    path: Path, name: str, message: str, pipeline_override: Pipeline | None = None
) -> dg.SensorDefinition:
    """Return the sensor of a source whose entry in the file had a mistake: it fails with that, until it is corrected."""
    description = f"When it was loaded, the source {name} could not be scanned: {message}"
    return _sync_sensor(path, name, _LONGEST_INTERVAL, description, pipeline_override)


def _sync_sensor(
    path: Path, source: str, interval: int, description: str, pipeline_override: Pipeline | None
) -> dg.SensorDefinition:

    @dg.sensor(
        name=sensor_name(source),
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sync(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        file = read_sources(path)
        config = file.source(source)
        if config is None:
            return _not_scanned(path, file, source, context.cursor)
        cursor = _ScanCursor.load(context.cursor, config)
        now = datetime.now(UTC)
        if cursor.next_scan is not None and now < cursor.next_scan:
            return cursor.waiting()
        with opened(pipeline_override) as pipeline:
            cursor.next_scan = waits_until(pipeline, config, now)
            if cursor.next_scan is not None:
                return cursor.waiting()
            return _scan(context.instance, pipeline, cursor)

    return sync


def _not_scanned(path: Path, file: SourcesFile, source: str, cursor: str | None) -> dg.SensorResult:
    """Say why a source is not scanned: its documents stay as they are. Raises `ConfigError` if its entry has a mistake."""
    for entry in file.invalid:
        if entry.name == source:
            raise ConfigError(entry.message)
    # Any other mistake is reported by the sensor `sources_file`.
    reason = file.mistake_about(source) or (
        f"{source} is no longer in {path}; its documents stay until `rag-pipeline sources --remove {source}`"
    )
    return dg.SensorResult(skip_reason=f"not scanned: {reason}", cursor=cursor)


def _scan(instance: dg.DagsterInstance, pipeline: Pipeline, cursor: "_ScanCursor") -> dg.SensorResult:
    config = cursor.config
    try:
        result = scan_source(pipeline, config, deadline=time.monotonic() + _SCAN_SECONDS, wait_seconds=0)
    except BusyError:
        return cursor.result(f"another process is scanning {config.name}")
    except SourceError as error:
        # Not a failed tick: the check of the source fails, and its alert would come twice.
        record_scan(instance, pipeline, config, None)
        outcome = one_line(error)
    else:
        result.add(cursor.unfinished, cursor.not_included)
        if not result.complete:
            cursor.unfinished, cursor.not_included = result.counts(), result.not_included
            return cursor.result(f"{result}; the scan resumes at the next tick")
        record_scan(instance, pipeline, config, result)
        outcome = str(result)
    return _ScanCursor(config, waits_until(pipeline, config, datetime.now(UTC))).result(outcome)


@dataclass
class _ScanCursor:
    """What the sensor of a source remembers between its ticks."""

    config: SourceConfig
    next_scan: datetime | None = None
    """None: ask PostgreSQL."""
    unfinished: Counts = field(default_factory=dict)
    """What the earlier ticks of an unfinished pass have counted."""
    not_included: Mapping[str, int] = field(default_factory=dict)
    """What they have passed by that is no item."""

    @classmethod
    def load(cls, text: str | None, config: SourceConfig) -> "_ScanCursor":
        stored = json.loads(text) if text else {}
        if (stored.get("schedule"), stored.get("settings")) != (config.schedule, config.settings_digest):
            return cls(config)
        at = stored["next_scan"]
        return cls(
            config, datetime.fromisoformat(at) if at else None, stored["unfinished"], stored["not_included"]
        )

    def waiting(self) -> dg.SensorResult:
        return self.result(f"{self.config.name} {NOT_DUE} ({self.config.schedule})")

    def result(self, reason: str) -> dg.SensorResult:
        """Return the result of a tick, with when the next scan is."""
        at = self.next_scan.isoformat(timespec="seconds") if self.next_scan else None
        cursor = {
            "schedule": self.config.schedule,
            "settings": self.config.settings_digest,
            "next_scan": at,
            "unfinished": self.unfinished,
            "not_included": dict(self.not_included),
        }
        return dg.SensorResult(
            skip_reason=f"{reason}; next scan: {at}" if at else reason, cursor=json.dumps(cursor)
        )


def sources_file_sensor(path: Path, loaded: Collection[str]) -> dg.SensorDefinition:
    """Return the sensor that fails for each mistake in the file, except in the entries of the sources that were `loaded`.

    These have sensors of their own. It says which sources have none yet.
    """

    @dg.sensor(
        name="sources_file",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails while sources.yaml cannot be read or an entry without a sensor of its own has a mistake. Says "
        "which sources are new: they get their sensors when the code location is reloaded.",
    )
    def sources_file(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        file = read_sources(path)
        mistakes = [entry.message for entry in file.invalid if entry.name is None or entry.name not in loaded]
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        said = [f"valid sources: {len(file.sources)}"]
        if invalid := [entry.name for entry in file.invalid if entry.name is not None]:
            said.append(f"with a mistake, which their own sensors report: {', '.join(invalid)}")
        if new := [source.name for source in file.sources if source.name not in loaded]:
            names = ", ".join(new)
            said.append(
                f"without a sensor yet, because they are new: {names}: reload the code location (Deployment, Reload)"
            )
        return dg.SkipReason("; ".join(said))

    return sources_file


def index_pending_months(index_months: dg.JobDefinition) -> dg.SensorDefinition:
    """Return the sensor that runs the months with pending work, oldest first; those with little to do in one run.

    A month whose run failed is retried after a pause, alone, as are quarantined documents and chunks that failed.
    """

    @dg.sensor(
        name="index_pending_months",
        jobs=[index_month, index_months],
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs index_month for the months with pending work, oldest first, and index_months for those "
        "that have little to do.",
    )
    def pending(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
        instance, now = context.instance, datetime.now(UTC)
        deactivate_unconfigured(pipeline, pipeline.sources_file)
        end_ownerless_runs(instance, pipeline.stores.database)
        repeated, work = _months_to_repeat(pipeline, instance), pending_work(pipeline)
        shown = show_months(instance, pipeline)
        # A month that has expired since its run failed can no longer be run.
        work = {month: digest for month, digest in (repeated | work).items() if month in shown}
        # A month whose checks are queued can be requested: it runs before them. One whose run has just failed waits,
        # also if a part of its work was done: Dagster restarts it if its worker died.
        running = months_in_runs(instance, except_job=CHECK_MONTH)
        busy = running | months_failed_since(instance, now - _RETRY_PAUSE)
        requested = load_requested(context.cursor)
        # What two runs of several months have not done, the month's own run is to do, or to fail with.
        new = [
            m for m in work if m not in repeated and times_requested(requested.get(m), work[m]) < _TIMES_TOGETHER
        ]
        amounts = small_months(pipeline, new)
        small = {month: digest for month, digest in work.items() if month in amounts}
        others = {month: digest for month, digest in work.items() if month not in amounts}
        due_together, small_requested = due_months(small, busy, requested, now, _SMALL_MONTHS_PER_TICK)
        due, others_requested = due_months(others, busy, requested, now, _MONTHS_PER_TICK)
        # One alone has a run of its own: a run's process costs more than its steps do.
        groups = [g for g in in_groups({month: amounts[month] for month in due_together}) if len(g) > 1]
        alone = sorted({*due, *due_together}.difference(*groups))
        return dg.SensorResult(
            run_requests=[*map(_of_month, alone), *map(_of_months, groups)],
            cursor=dump_requested(small_requested | others_requested),
            skip_reason=None if alone or groups else _none_is_due(work, running),
        )

    return pending


def _none_is_due(work: Collection[Month], running: Collection[Month]) -> str:
    there = len(set(work).intersection(running))
    return f"months with pending work: {len(work)}" + (
        f", of which {there} are running" if there else "; none is due"
    )


def _of_month(month: Month) -> dg.RunRequest:
    return dg.RunRequest(job_name=INDEX_MONTH, partition_key=month.partition_key)


def _of_months(months: Sequence[Month]) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=INDEX_MONTHS, run_config=config_of(months), tags={MONTHS_TAG: months_tag(months)}
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Deletes the vectors of chunks that were deleted from PostgreSQL, by whatever means, from Milvus.",
)
def drain_vector_deletions(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult:
    """Empty the outbox of vector deletions, as far as the time of a tick allows."""
    drained = drain_deletions(pipeline, deadline=time.monotonic() + _DRAIN_SECONDS)
    if not drained:
        return dg.SensorResult(skip_reason="no pending deletions")
    with pipeline.stores.database.connection() as connection:
        pending = vector_deletions.backlog(connection)
    summary = f"deleted the vectors of {drained} chunks from Milvus, {pending} deletions pending"
    context.log.info(summary)
    return dg.SensorResult(skip_reason=summary)


def _months_to_repeat(pipeline: Pipeline, instance: dg.DagsterInstance) -> dict[Month, str]:
    """Return the months whose run failed and was reported, and has not succeeded since, as work that never changes.

    Without pending work nothing else would ever run them again, and the alert would stay open.
    """
    with pipeline.stores.database.connection() as connection:
        failing = alert_outbox.failing(connection)
    since = {
        month: at
        for s, at in failing
        if (s.kind, s.name) == ("run", INDEX_MONTH) and (month := month_of_key(s.partition)) is not None
    }
    return {month: "" for month, at in since.items() if not succeeded_since(instance, month, at)}


def load_requested(cursor: str | None) -> dict[Month, RequestedRun]:
    """Return what a sensor that requests months remembers."""
    stored = json.loads(cursor) if cursor else {}
    return {
        Month.parse(month): RequestedRun(digest, times, datetime.fromisoformat(again_at))
        for month, (digest, times, again_at) in stored.items()
    }


def dump_requested(requested: dict[Month, RequestedRun]) -> str:
    """Return the cursor of a sensor that requests months."""
    return json.dumps({str(month): [r.digest, r.times, r.again_at.isoformat()] for month, r in requested.items()})
