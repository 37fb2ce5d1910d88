"""`generations`: another model, dimension or chunk size, built beside the live index and exchanged with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rag_pipeline.cli.common import (
    MonthType,
    json_option,
    local_time,
    open_pipeline,
    print_error,
    print_json,
    print_line,
)
from rag_pipeline.cli.interruption import run_until_interrupted
from rag_pipeline.progress import ProgressLine

if TYPE_CHECKING:
    from rag_pipeline.generations.build import Built
    from rag_pipeline.generations.registry import GenerationStatus
    from rag_pipeline.indexing.month_run import MonthRun
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.generations import GenerationRow


@click.group()
def generations() -> None:
    """Change the model, its dimension or the size of chunks without downtime.

    The settings of the new generation are those of the environment of `plan` and `build`, such as RAG_EMBEDDER. The
    other commands, and every process that runs, keep theirs until the previous generation is dropped.
    """


@generations.command("list")
@json_option
def list_generations(as_json: bool) -> None:
    """List the generations: which is live, and how far the others are."""
    from rag_pipeline.generations.registry import statuses

    with open_pipeline() as pipeline:
        pipeline.prepare()
        found = statuses(pipeline)
    if as_json:
        print_json({"generations": [status.as_json() for status in found]})
        return
    for status in found:
        for line in _described(status):
            print_line(line)
    if not found:
        print_line("no generations yet: run `rag-pipeline ingest`")


def _described(status: GenerationStatus) -> tuple[str, str]:
    row = status.row
    since = f" since {local_time(row.live_since)}" if row.state == "live" and row.live_since else ""
    work = f", {len(status.pending)} months to build" if status.pending else ""
    made_with = ", ".join(
        f"RAG_{name.upper()}={','.join(value) if isinstance(value, list) else value}"
        for name, value in sorted(row.settings.items(), key=lambda item: item[0] != "embedder")
        if value not in (None, "")
    )
    return (
        f"{row.id:>3}  {row.state + since}: {status.chunks} chunks of {len(status.months)} months{work}; "
        f"{_bytes(status.bytes_in_postgres)} in PostgreSQL",
        f"     {row.embedder}; {made_with}",
    )


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@generations.command()
@json_option
def plan(as_json: bool) -> None:
    """Say what a generation with the settings of this environment costs. Writes nothing."""
    from rag_pipeline.generations.plan import plan as make_plan

    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        found = make_plan(pipeline)
    if as_json:
        print_json(found.as_json())
        return
    print_line(f"embedder  {found.embedder}")
    print_line(f"documents {found.documents} in {found.months} months, {found.characters} characters")
    print_line(f"chunks    about {found.chunks}, {found.tokens} tokens (from {found.sampled_documents} documents)")
    print_line(f"to embed  about {found.to_embed} chunks, {found.tokens_to_embed} tokens; the others are cached")
    print_line(f"time      about {_duration(found.seconds)} for embedding, by one process of this machine")
    print_line(
        f"space     about {_bytes(found.bytes_in_milvus)} in Milvus and {_bytes(found.bytes_in_postgres)} in "
        "PostgreSQL, until the previous generation is dropped"
    )


@generations.command()
@json_option
@click.argument("generation", type=int, required=False)
@click.option("--month", "only_months", type=MonthType(), multiple=True, help="Build only this month; repeatable.")
@click.option("--same-settings", is_flag=True, help="Build the live generation once more.")
@click.option("--retry-failed", is_flag=True, help="Try chunks again that could not be embedded.")
@click.option("--in-dagster", is_flag=True, help="Only begin it, and leave the months to Dagster's daemon.")
def build(
    as_json: bool,
    generation: int | None,
    only_months: tuple[Month, ...],
    same_settings: bool,
    retry_failed: bool,
    in_dagster: bool,
) -> None:
    """Build a generation with the settings of this environment, or go on with the one that is being built.

    With an ID, bring that one up to date, which can be a previous one. What Milvus has lost of it is restored.

    Month by month, newest first, as runs that the Dagster UI shows. It can be killed and run again, and several can
    build side by side. Exit 1 if a month failed.
    """
    from rag_pipeline.generations import build as building
    from rag_pipeline.generations.registry import begin, find

    built = building.Built()
    with ProgressLine() as progress, open_pipeline(progress) as pipeline:

        def work() -> GenerationRow:
            pipeline.prepare()
            row = (
                begin(pipeline, same_settings=same_settings)
                if generation is None
                else find(pipeline, generation, "building", "previous")
            )
            if retry_failed:
                building.retry_failed(pipeline, row)
            if not in_dagster:
                lost = building.restore_collections(pipeline, row)
                building.build(pipeline, row, only_months, _build_month_in_dagster, built, lost)
            return row

        row = run_until_interrupted(work, lambda: _interrupted(pipeline, progress, built))
        progress.finish()
        left = building.pending_months(pipeline, row)
    stats = built.stats
    if as_json:
        print_json(
            {
                "id": row.id,
                "months": [str(month) for month in built.months],
                "documents": stats.documents,
                "chunks": stats.chunks,
                "embedded": stats.embedded,
                "reused": stats.reused,
                "failed_chunks": stats.failed_chunks,
                "pending_months": [str(month) for month in left],
                "errors": built.errors,
            }
        )
    else:
        print_line(
            f"{row.name}: {stats.documents} documents, {stats.chunks} chunks, {stats.embedded} embedded, "
            f"{stats.reused} from the cache"
        )
        if in_dagster:
            print_line(f"{len(left)} months to build: Dagster's sensor build_generation_months runs them")
        elif left:
            print_line(f"{len(left)} months left: {', '.join(map(str, left))}")
        else:
            print_line(f"complete: `rag-pipeline generations switch {row.id}` makes it live")
    for error in built.errors:
        print_error(error)
    sys.exit(1 if built.errors else 0)


def _build_month_in_dagster(pipeline: Pipeline, row: GenerationRow, month: Month, run: MonthRun) -> None:
    """The month's job, in this process."""
    from rag_pipeline.defs.run_month import build_generation_month

    build_generation_month(pipeline, row, month, run)


def _interrupted(pipeline: Pipeline, progress: ProgressLine, built: Built) -> None:
    progress.finish()
    if "rag_pipeline.defs.run_month" in sys.modules:
        from rag_pipeline.defs.run_month import cancel_runs_of_this_process

        cancel_runs_of_this_process(pipeline)
    print_error(f"interrupted: built {len(built.months)} months; run again to resume")


@generations.command()
@json_option
@click.argument("generation", type=int, required=False)
@click.option(
    "--notice",
    type=click.FloatRange(0, 600),
    default=10,
    show_default=True,
    help="Seconds that search services get to load the embedder; until they have, the first searches wait.",
)
@click.option("--without-failed", is_flag=True, help="Although some documents would not be found any more.")
def switch(as_json: bool, generation: int | None, notice: float, without_failed: bool) -> None:
    """Make a generation live, by default the one that is being built, once it is complete and every check passes.

    Searches go on: each has hits of one generation only. Runs of months wait for it.
    """
    from rag_pipeline.generations.switching import switch as exchange

    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        row = exchange(pipeline, generation, notice_seconds=notice, without_failed=without_failed)
    _print_live(row, as_json)


@generations.command()
@json_option
@click.argument("generation", type=int, required=False)
@click.option(
    "--without-embedder",
    is_flag=True,
    help="Although its embedder does not work: until it does, only the mode fulltext finds anything.",
)
def rollback(as_json: bool, generation: int | None, without_embedder: bool) -> None:
    """Make the previous generation live again, or an older one, at once.

    What was edited since is indexed by the next runs.
    """
    from rag_pipeline.generations.switching import rollback as go_back

    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        row = go_back(pipeline, generation, without_embedder=without_embedder)
    _print_live(row, as_json)


def _print_live(row: GenerationRow, as_json: bool) -> None:
    if as_json:
        print_json({"id": row.id, "embedder": row.embedder})
    else:
        print_line(f"{row.name} is live ({row.embedder}); `rag-pipeline generations rollback` goes back")


@generations.command()
@json_option
@click.argument("generation", type=int)
def drop(as_json: bool, generation: int) -> None:
    """Drop a generation that is not live, from both stores. There is no way back to it."""
    from rag_pipeline.generations.registry import drop as drop_generation

    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        row = drop_generation(pipeline, generation)
    if as_json:
        print_json({"id": row.id})
    else:
        print_line(f"{row.name} is dropped")
