"""`sources`, `ingest` and `documents`: what goes into the index."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.cli.common import (
    MonthType,
    json_option,
    local_time,
    open_pipeline,
    print_error,
    print_json,
    print_line,
    print_status,
)
from rag_pipeline.cli.interruption import run_until_interrupted
from rag_pipeline.errors import ConfigError, RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.progress import ProgressLine
from rag_pipeline.sources.naming import without_name
from rag_pipeline.sources.not_included import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.indexing.ingest import IngestResult
    from rag_pipeline.indexing.month_run import MonthRun, MonthRuns
    from rag_pipeline.indexing.scan import ScanResult
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.sources.config import SourceConfig


@click.command()
@json_option
@click.option(
    "--remove",
    metavar="NAME",
    help="Remove a source that is no longer configured; the next ingest deletes its documents.",
)
def sources(as_json: bool, remove: str | None) -> None:
    """List the sources and their state."""
    from rag_pipeline.stores.postgres import sources as table

    with open_pipeline() as pipeline:
        pipeline.prepare()
        if remove is not None:
            _remove(pipeline, remove)
        file = pipeline.sources_file
        with pipeline.stores.database.connection() as connection:
            counts = table.documents_now(connection)
            rows = {
                row["name"]: {**row, **counts[row["source_type"], row["name"]]}
                for row in table.list_sources(connection)
            }
    configured = {source.name: source for source in file.sources}
    for name, row in rows.items():
        if name not in configured:  # No scan has noticed it yet.
            row |= {"next_sync_at": None}
            row |= {"sync_status": "not scanned"} if file.mistake_about(name) else {"is_active": False}
    for name, config in configured.items():
        rows.setdefault(name, {"name": name, "source_type": config.type, "sync_status": "never scanned"})
    for entry in file.invalid:
        name = entry.name or pipeline.settings.sources.name
        rows[name] = {"source_type": "", **rows.get(name, {}), "name": name, "sync_status": "invalid"}
        rows[name]["last_error"] = entry.message
    if as_json:
        print_json({"sources": list(rows.values())})
        return
    for row in rows.values():
        print_line(_source_line(row))


def _remove(pipeline: Pipeline, name: str) -> None:
    from rag_pipeline.indexing.ingest import deactivate_unconfigured, remove_source
    from rag_pipeline.stores.postgres import source_items
    from rag_pipeline.stores.postgres import sources as table

    file = pipeline.sources_file
    if file.source(name) or any(entry.name == name for entry in file.invalid):
        raise RagError(f"source {name} is still configured in {pipeline.settings.sources}: delete its entry first")
    if mistake := file.mistake_about(name):
        raise ConfigError(f"{name} was not removed, because it may still be configured: {mistake}")
    # The entry was perhaps deleted a moment ago, before any ingest has noticed.
    deactivate_unconfigured(pipeline, file)
    with pipeline.stores.database.connection() as connection:
        known = table.names(connection)
        listed = {row["name"] for row in table.list_sources(connection)}
    if name not in known:
        raise RagError(f"no source {name!r} was ever scanned: there are {', '.join(known) or 'none'}")
    if name not in listed:
        print_status(f"nothing is left of {name}")
        return
    remove_source(pipeline, name)
    with pipeline.stores.database.connection() as connection:
        count = source_items.gone(connection, name)  # Those that wait from before included.
    print_status(
        f"{count} documents and quarantined files of {name} will be deleted by the next run or `rag-pipeline ingest`"
    )


def _source_line(row: dict[str, Any]) -> str:
    state = row.get("sync_status") if row.get("is_active", True) else "not configured"
    line = (
        f"{row['name']:<20} {row['source_type']:<12} {state:<14} "
        f"{_documents(row)}, last scan {_moment(row.get('last_sync_at'))}, next {_moment(row.get('next_sync_at'))}"
    )
    return f"{line}  {row['last_error']}" if row.get("last_error") else line


def _documents(row: dict[str, Any]) -> str:
    """Return how far the documents of a source have come, as `139 of 201 ingested, 62 waiting, 0 quarantined`."""
    ingested, waiting, failed, unsearchable = (
        row.get(f"{state}_documents") or 0 for state in ("successful", "waiting", "failed", "unsearchable")
    )
    return ", ".join(
        [
            f"{ingested:,} of {ingested + waiting + failed:,} ingested" if waiting else f"{ingested:,} ingested",
            *([f"{waiting:,} waiting"] if waiting else []),
            *([f"{unsearchable:,} not searchable yet"] if unsearchable else []),
            f"{failed:,} quarantined",
        ]
    )


def _moment(moment: datetime | None) -> str:
    return local_time(moment) if moment else "never"


@click.command()
@json_option
@click.option("--source", "only_sources", metavar="NAME", multiple=True, help="Scan only this source; repeatable.")
@click.option("--month", "only_months", type=MonthType(), multiple=True, help="Run only this month; repeatable.")
@click.option("--retry-failed", is_flag=True, help="Retry what is quarantined.")
@click.option("--reread", is_flag=True, help="Read every document again, also those whose files have not changed.")
@click.option("--confirm-deletions", is_flag=True, help="Accept a scan that finds most of a source gone.")
def ingest(
    as_json: bool,
    only_sources: tuple[str, ...],
    only_months: tuple[Month, ...],
    retry_failed: bool,
    reread: bool,
    confirm_deletions: bool,
) -> None:
    """Scan the sources, apply the retention, and run the job of every month with pending work, in this process."""
    from rag_pipeline.indexing.ingest import IngestResult
    from rag_pipeline.indexing.ingest import ingest as run_ingest
    from rag_pipeline.stores.probes import probe_milvus

    result = IngestResult()
    with ProgressLine() as progress, open_pipeline(progress) as pipeline:

        def work() -> None:
            pipeline.prepare()
            # If nothing has changed, nobody would contact Milvus, and nobody would hear that it is down.
            probe_milvus(pipeline.endpoints.milvus_uri)
            run_ingest(
                pipeline,
                only_sources=only_sources,
                only_months=only_months,
                also_months=_end_ownerless_runs(pipeline),
                confirm_deletions=confirm_deletions,
                retry_failed=retry_failed,
                reread=reread,
                run=_run_month_in_dagster,
                run_together=_run_months_in_dagster,
                on_scan=_record_scan_in_dagster,
                result=result,
            )
            _expire_history_in_dagster(pipeline)

        run_until_interrupted(work, lambda: _interrupted(pipeline, progress, result))
        redis_down = pipeline.cache_unreachable or not pipeline.redis_answers()
        redis_refusal = pipeline.redis_refusal() if redis_down else ""
    if as_json:
        print_json(result.as_json(pipeline.stopwatch.seconds))
    else:
        _print_counts(result, pipeline.stopwatch.seconds)
    for line in [*result.warnings, *result.document_warnings.lines()]:
        print_error(line)
    if result.stats.failed or result.stats.failed_chunks:
        print_error(
            f"quarantined documents: {result.stats.failed}, failed chunks: {result.stats.failed_chunks}: "
            "see `rag-pipeline documents --failed`"
        )
    if redis_down:
        result.errors.append(
            f"Redis refuses writes: everything was done without embedding_cache; mend what it says: {redis_refusal}"
            if redis_refusal
            else "Redis does not answer: everything was done without embedding_cache; start it "
            "(the embedded one: `rag-pipeline up`)"
        )
    for line in result.errors:
        print_error(line)
    sys.exit(0 if result.complete else 1)


def _run_month_in_dagster(pipeline: Pipeline, month: Month, run: MonthRun) -> None:
    """The month's job, in this process."""
    from rag_pipeline.defs.run_month import run_month

    run_month(pipeline, month, run)


def _run_months_in_dagster(pipeline: Pipeline, months: Sequence[Month], runs: MonthRuns) -> None:
    """The job for several months, in this process."""
    from rag_pipeline.defs.run_month import run_months

    run_months(pipeline, months, runs)


def _expire_history_in_dagster(pipeline: Pipeline) -> None:
    """Delete old runs, if this process has added some."""
    if "rag_pipeline.defs.run_month" in sys.modules:
        from rag_pipeline.defs.run_month import expire_history

        with pipeline.stopwatch.stage("history"):
            expire_history(pipeline)


def _end_ownerless_runs(pipeline: Pipeline) -> list[Month]:
    """End runs that a killed process left in Dagster; return their months, which are run again."""
    from rag_pipeline.stores.postgres import dagster_runs

    schema = dagster_runs.schema_beside(pipeline.settings.postgres_schema)
    with pipeline.stores.database.connection() as connection:
        if not dagster_runs.any_running(connection, schema):
            return []
    from rag_pipeline.defs.run_month import end_ownerless_runs

    return end_ownerless_runs(pipeline)


def _interrupted(pipeline: Pipeline, progress: ProgressLine, result: IngestResult) -> None:
    """Say what was done and what is left, and leave no run in Dagster that looks alive."""
    from rag_pipeline.stores.postgres import documents as table

    progress.finish()
    done = f"interrupted: scanned {result.stats.scanned} items, finished {len(result.months)} months"
    try:
        if "rag_pipeline.defs.run_month" in sys.modules:
            from rag_pipeline.defs.run_month import cancel_runs_of_this_process

            cancel_runs_of_this_process(pipeline)
        with pipeline.stores.database.connection() as connection:
            left = table.months_with_work(connection)
    except RagError as error:
        print_error(f"{done}; run again to resume ({one_line(error)})")
    else:
        print_error(f"{done}; months with pending work: {len(left)}; run again to resume")


def _record_scan_in_dagster(pipeline: Pipeline, source: SourceConfig, result: ScanResult | None) -> None:
    """Record what a scan found. Without news Dagster is not imported: that takes longer than many a scan."""
    if result is not None and not result.has_news and "rag_pipeline.defs.run_month" not in sys.modules:
        return
    from rag_pipeline.defs.run_month import record_scan

    record_scan(pipeline, source, result)


def _print_counts(result: IngestResult, seconds: dict[str, float]) -> None:
    stats = result.stats
    print_line(
        f"scanned   {stats.scanned} items: {stats.new} new, {stats.changed} changed, {stats.deleted} deleted"
    )
    for source, kinds in result.not_included.items():
        print_line(f"          not included in {source}: {described(kinds)}")
    print_line(f"documents {stats.documents} stored, {stats.failed} quarantined")
    print_line(f"chunks    {stats.chunks} added, {stats.superseded} superseded, {stats.failed_chunks} failed")
    billed = f", {result.embedding_tokens} tokens of the embedding server" if result.embedding_tokens else ""
    print_line(f"vectors   {stats.embedded} embedded, {stats.reused} from the cache{billed}")
    print_line(f"months    {', '.join(map(str, result.months)) or 'none had work'}")
    print_line("seconds   " + (", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()) or "0"))


@click.command()
@json_option
@click.option("--failed", is_flag=True, help="Only what is quarantined, with its reason.")
def documents(as_json: bool, failed: bool) -> None:
    """List the documents, and what is quarantined with its reason."""
    from rag_pipeline.stores.postgres import source_items

    with open_pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            rows = source_items.overview(connection, failed)
    for row in rows:
        row["error"] = without_name(row["error"], row["source_id"]) if row["error"] else None
    if as_json:
        print_json({"documents": rows})
        return
    for row in rows:
        line = f"{row['month']}  {row['processing_status']}/{row['indexing_status']}  {row['source_id']}"
        print_line(line + (f"  {row['error']}" if row["error"] else f"  {row['title']}"))
    if not rows:
        print_line("nothing is quarantined" if failed else "no documents yet: run `rag-pipeline ingest`")
