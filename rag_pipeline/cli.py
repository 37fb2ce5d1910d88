"""The command line: `rag-pipeline`. Arguments, exit codes and what is printed; no logic beyond that.

Errors that a person can mend are one line on standard error and exit code 1. `--json` prints one JSON object on
standard output, and nothing else goes there.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.errors import RagError, one_line
from rag_pipeline.months import Month
from rag_pipeline.progress import ProgressLine
from rag_pipeline.settings import load_settings
from rag_pipeline.urls import mask_url

if TYPE_CHECKING:
    from rag_pipeline.indexing.ingest import Ingested
    from rag_pipeline.indexing.pipeline import Pipeline


def main() -> None:
    """Run the command; a `RagError` becomes one line and exit code 1."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        _complain("interrupted; run again to go on")
        sys.exit(130)
    except KeyboardInterrupt:
        _complain("interrupted; run again to go on")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RagError as error:
        _complain(one_line(error, 2000))
        sys.exit(1)
    except OSError as error:
        _complain(one_line(error, 2000))
        sys.exit(1)


class _MonthType(click.ParamType):
    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Month:
        try:
            return value if isinstance(value, Month) else Month.parse(value)
        except RagError as error:
            self.fail(str(error), param, ctx)


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rag-pipeline")
def cli() -> None:
    """Keeps a retrieval index true: documents in PostgreSQL, Milvus and Redis, run through Dagster."""


@cli.command()
def up() -> None:
    """Start the embedded servers that no RAG_* URL replaces, and bring the schema up to date."""
    from rag_pipeline.stack import Stack

    settings = load_settings()
    endpoints = Stack(settings).up(_say)
    with _pipeline() as pipeline:
        pipeline.prepare()
    _say(f"PostgreSQL {mask_url(endpoints.postgres_url)}")
    _say(f"Milvus     {mask_url(endpoints.milvus_uri)}")
    _say(f"Redis      {mask_url(endpoints.redis_url)}")


@cli.command()
def down() -> None:
    """Stop the embedded servers. Data and ports stay."""
    from rag_pipeline.stack import Stack

    Stack(load_settings()).down(_say)


@cli.command()
@_json
def status(as_json: bool) -> None:
    """Show where the servers are and whether they answer; exit 1 unless all do."""
    from rag_pipeline.stack import Stack

    found = Stack(load_settings()).status()
    if as_json:
        _print_json(found)
    else:
        for name, state in found.items():
            where = state.get("url") or state.get("uri") or "never started: run `rag-pipeline up`"
            click.echo(f"{name:<9} {'running' if state['running'] else 'down':<8} {where}")
    sys.exit(0 if all(state["running"] for state in found.values()) else 1)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option(
    "--port", default=3000, show_default=True, help="Port of the Dagster UI; the next free one if taken."
)
def dev(host: str, port: int) -> None:
    """Start the servers, Dagster's UI and its daemon; Ctrl-C stops all of them."""
    from rag_pipeline.stack.dev import run_dev

    sys.exit(run_dev(load_settings(), host, port, _say))


@cli.command()
@_json
@click.option("--remove", metavar="NAME", help="Give up a source that is no longer listed: its documents go.")
def sources(as_json: bool, remove: str | None) -> None:
    """List the sources with their state."""
    from rag_pipeline.stores.postgres import sources as table

    with _pipeline() as pipeline:
        pipeline.prepare()
        configured = pipeline.sources
        with pipeline.stores.database.connection() as connection:
            if remove is not None:
                if remove in configured:
                    raise RagError(
                        f"source {remove} is still in {pipeline.settings.sources}: take it out there first"
                    )
                count = table.abandon(connection, remove)
                _say(f"{count} documents of {remove} will be deleted by the next `rag-pipeline ingest`")
            rows = {row["name"]: row for row in table.list_sources(connection)}
    for name, config in configured.items():
        rows.setdefault(name, {"name": name, "source_type": config.type, "sync_status": "never scanned"})
    if as_json:
        _print_json({"sources": list(rows.values())})
        return
    for row in rows.values():
        state = row.get("sync_status") if row.get("is_active", True) else "not in sources.yaml"
        click.echo(
            f"{row['name']:<20} {row['source_type']:<12} {state:<14} "
            f"{row.get('successful_documents') or 0} ingested, {row.get('failed_documents') or 0} set aside"
            + (f"  {row['last_error']}" if row.get("last_error") else "")
        )


@cli.command()
@_json
@click.option("--source", "only_sources", metavar="NAME", multiple=True, help="Scan only this source; repeatable.")
@click.option("--month", "only_months", type=_MonthType(), multiple=True, help="Run only this month; repeatable.")
@click.option("--retry-failed", is_flag=True, help="Try again what was set aside.")
@click.option("--confirm-deletions", is_flag=True, help="Accept a scan that finds most of a source gone.")
def ingest(
    as_json: bool,
    only_sources: tuple[str, ...],
    only_months: tuple[Month, ...],
    retry_failed: bool,
    confirm_deletions: bool,
) -> None:
    """Scan the sources and run the job of every month with pending work, in this process."""
    from rag_pipeline.indexing.ingest import ingest as run_ingest
    from rag_pipeline.stack import endpoints
    from rag_pipeline.stack.probes import probe_milvus

    with ProgressLine() as progress, _pipeline(progress) as pipeline:
        pipeline.prepare()
        # Where nothing changed nobody would ask Milvus, and nobody would be told that it is down.
        probe_milvus(endpoints(pipeline.settings).milvus_uri)
        result = run_ingest(
            pipeline,
            only_sources=only_sources,
            only_months=only_months,
            confirm_deletions=confirm_deletions,
            retry_failed=retry_failed,
            run=_run_month_in_dagster,
        )
        redis_down = pipeline.cache_unreachable or not pipeline.redis_answers()
    _report(pipeline, result, as_json)
    if redis_down:
        result.errors.append(
            "Redis does not answer: everything was done without embedding_cache; start it "
            "(the embedded one: `rag-pipeline up`)"
        )
    for line in result.errors:
        _complain(line)
    sys.exit(1 if result.errors or pipeline.tally.failed or pipeline.tally.failed_chunks else 0)


def _run_month_in_dagster(pipeline: Pipeline, month: Month) -> None:
    """The month's job, in this process; its run shows in the UI."""
    from rag_pipeline.defs.local_run import run_month

    run_month(pipeline, month)


def _report(pipeline: Pipeline, result: Ingested, as_json: bool) -> None:
    tally = pipeline.tally
    for name in result.unconfigured:
        result.warnings.append(
            f"source {name} is no longer in {pipeline.settings.sources}; its documents stay until "
            f"`rag-pipeline sources --remove {name}`"
        )
    if as_json:
        months = [str(month) for month in result.months]
        _print_json({**tally.as_json(), "months": months, "warnings": result.warnings, "errors": result.errors})
    else:
        click.echo(
            f"scanned   {tally.scanned} items: {tally.new} new, {tally.changed} changed, {tally.deleted} deleted"
        )
        click.echo(f"documents {tally.documents} stored, {tally.failed} set aside")
        click.echo(f"chunks    {tally.chunks} added, {tally.retired} dropped, {tally.failed_chunks} failed")
        click.echo(f"vectors   {tally.embedded} embedded, {tally.reused} from the cache")
        click.echo(f"months    {', '.join(map(str, result.months)) or 'none had work'}")
        click.echo("seconds   " + (", ".join(f"{k} {v:.1f}" for k, v in tally.seconds.items()) or "0"))
    for line in result.warnings:
        _complain(line)
    if tally.failed or tally.failed_chunks:
        _complain(
            f"{tally.failed} documents were set aside and {tally.failed_chunks} chunks failed: "
            "see `rag-pipeline documents --failed`"
        )


@cli.command()
@click.argument("query")
@_json
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "sparse", "fulltext"]),
    default="hybrid",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option("--language", metavar="XX", help="Only documents in this language, such as ja.")
@click.option("--source-type", metavar="T", help="Only documents from this type of source.")
@click.option(
    "--from", "from_date", type=click.DateTime(["%Y-%m-%d", "%Y-%m"]), help="Not older than this date (UTC)."
)
@click.option("--to", "to_date", type=click.DateTime(["%Y-%m-%d"]), help="Not newer than this date (UTC).")
def search(
    query: str,
    as_json: bool,
    mode: Any,
    limit: int,
    language: str | None,
    source_type: str | None,
    from_date: datetime | None,
    to_date: datetime | None,
) -> None:
    """Search the index."""
    from rag_pipeline.search import Filters
    from rag_pipeline.search import search as run_search

    filters = Filters(
        language=language,
        source_type=source_type,
        from_date=from_date.date() if from_date else None,
        to_date=to_date.date() if to_date else None,
    )
    with _pipeline() as pipeline:
        pipeline.prepare()
        found = run_search(pipeline, query, mode=mode, limit=limit, filters=filters)
    if as_json:
        _print_json(found.as_json())
        return
    for number, hit in enumerate(found.hits, 1):
        section = f" › {hit.section_title}" if hit.section_title and hit.section_title != hit.title else ""
        click.echo(f"{number}. {hit.title}{section}  ({hit.score:.2f})")
        click.echo(f"   {hit.source_id}")
        click.echo(f"   {_excerpt(hit.content)}")
    if not found.hits:
        click.echo("nothing found")


@cli.command()
@_json
@click.option("--failed", is_flag=True, help="Only what is set aside, with its reason.")
def documents(as_json: bool, failed: bool) -> None:
    """List the documents, and what is set aside with its reason."""
    from rag_pipeline.stores.postgres import source_items

    with _pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            rows = source_items.overview(connection, failed)
    if as_json:
        _print_json({"documents": rows})
        return
    for row in rows:
        line = f"{row['month']}  {row['processing_status']}/{row['indexing_status']}  {row['source_id']}"
        click.echo(line + (f"  {row['error']}" if row["error"] else f"  {row['title']}"))
    if not rows:
        click.echo("nothing is set aside" if failed else "no documents yet: run `rag-pipeline ingest`")


@cli.command()
@_json
@click.option("--test", is_flag=True, help="Send a test message to each URL in RAG_ALERT_URLS.")
def alerts(as_json: bool, test: bool) -> None:
    """List what is failing now, as alerts know it; with --test, exit 1 unless every receiver accepts a message."""
    from rag_pipeline.alerts.receivers import receivers, send_test
    from rag_pipeline.stores.postgres import alerts as table

    settings = load_settings()
    told = receivers(settings)
    if test:
        if not told:
            raise RagError("RAG_ALERT_URLS is not set: put one Apprise URL or more there")
        tried = send_test(told, settings.ui_url)
        if as_json:
            _print_json(
                {"receivers": [{"receiver": str(r), "accepted": not why, "reason": why} for r, why in tried]}
            )
        else:
            for receiver, why in tried:
                click.echo(f"{receiver}: {why or 'accepted'}")
        sys.exit(1 if any(why for _, why in tried) else 0)
    with _pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            failing = table.failing(connection)
    if as_json:
        _print_json({"failing": [{**subject._asdict(), "since": since} for subject, since in failing]})
        return
    for subject, since in failing:
        where = f", {subject.partition}" if subject.partition else ""
        click.echo(f"{subject.kind:<9} {subject.name}{where}  since {since.isoformat(timespec='seconds')}")
    if not failing:
        click.echo("nothing is failing")


def _pipeline(progress: ProgressLine | None = None) -> Pipeline:
    from rag_pipeline.indexing.pipeline import Pipeline

    return Pipeline(load_settings(), progress=progress) if progress else Pipeline(load_settings())


def _excerpt(content: str, width: int = 160) -> str:
    text = " ".join(content.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=_json_default))


def _json_default(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _complain(line: str) -> None:
    click.echo(f"rag-pipeline: {line}", err=True)


if __name__ == "__main__":
    main()
