"""`up`, `down`, `status`, `dev`, `serve` and `mcp`: the embedded servers, Dagster, and the search service."""

from __future__ import annotations

import os
import signal
import sys
import threading

import click

from rag_pipeline.cli.common import json_option, open_pipeline, print_json, print_line, print_status
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.service.logs import log_to_stderr
from rag_pipeline.settings import load_settings
from rag_pipeline.urls import mask_url

_PORT = click.IntRange(1, 65535)
_CANCEL_SECONDS = 10.0


@click.command()
def up() -> None:
    """Start the embedded servers that no RAG_* URL replaces, and bring the schema up to date."""
    from rag_pipeline.local_servers import LocalServers

    settings = load_settings()
    endpoints = LocalServers(settings).up(print_status)
    _prepare()
    print_status(f"PostgreSQL {mask_url(endpoints.postgres_url)}")
    print_status(f"Milvus     {mask_url(endpoints.milvus_uri)}")
    print_status(f"Redis      {mask_url(endpoints.redis_url)}")


@click.command()
def down() -> None:
    """Stop the embedded servers. Their data and ports are kept. Beside a running dev, which would start them again, stop nothing."""
    from rag_pipeline.dev import refuse_beside_dev
    from rag_pipeline.local_servers import LocalServers

    settings = load_settings()
    refuse_beside_dev(settings.home_path)
    LocalServers(settings).down(print_status)


@click.command()
@json_option
@click.option(
    "--show-passwords", is_flag=True, help="Show the addresses with their passwords, to connect to a server."
)
def status(as_json: bool, show_passwords: bool) -> None:
    """Show the address of each server and whether it answers; exit 1 unless all do, and refuse nothing."""
    from rag_pipeline.local_servers import LocalServers

    found = LocalServers(load_settings()).status(with_passwords=show_passwords)
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            where = state.get("url") or state.get("uri") or "never started: run `rag-pipeline up`"
            problem = f"  {state['problem']}" if "problem" in state else ""
            print_line(f"{name:<9} {'running' if state['running'] else 'down':<8} {where}{problem}")
    sys.exit(0 if all(state["running"] and "problem" not in state for state in found.values()) else 1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option(
    "--port",
    default=3000,
    show_default=True,
    type=_PORT,
    help="Port of the Dagster UI; the next free one if taken.",
)
@click.option(
    "--search-port",
    default=8000,
    show_default=True,
    type=_PORT,
    help="Port of the search page; the next free one if taken.",
)
def dev(host: str, port: int, search_port: int) -> None:
    """Start the servers, the Dagster UI, its daemon and the search page; Ctrl-C stops all that was not running before."""
    from rag_pipeline.dev import run_dev

    sys.exit(run_dev(load_settings(), host, (port, search_port), print_status, _prepare, _cancel_runs))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=_PORT, help="Port of the page and the HTTP API.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes that share the port; each has an embedder of its own.",
)
@click.option("--until-input-ends", is_flag=True, hidden=True)
def serve(host: str, port: int, workers: int, until_input_ends: bool) -> None:
    """Serve the search page, the HTTP API and the tools for agents; Ctrl-C stops it."""
    from rag_pipeline.service.server import serve as run

    log_to_stderr()
    if until_input_ends:
        threading.Thread(target=_end_with_input, daemon=True).start()
    with open_pipeline() as pipeline:
        run(pipeline, host, port, print_status, workers)


def _end_with_input() -> None:
    """End this process, as a signal would, when whoever started it is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


@click.command()
def mcp() -> None:
    """Answer an agent over standard input and output (Model Context Protocol)."""
    from rag_pipeline.service.stdio import serve_stdio

    log_to_stderr()
    with open_pipeline() as pipeline:
        pipeline.prepare()
        pipeline.load_collections()
        serve_stdio(pipeline)


def _prepare() -> None:
    """Bring the schema up to date and load the collections, once the servers answer."""
    with open_pipeline() as pipeline:
        pipeline.prepare()
        pipeline.load_collections()
        try:
            pipeline.generation.refuse_another_embedder()
        except RagError as error:
            # Keyword search works, and the index can be looked at: so everything is started.
            print_status(f"runs and searches by meaning fail: {one_line(error)}")


def _cancel_runs() -> None:
    """End the runs of `dev`, which is ending: those that were killed would be reported as failed."""
    from rag_pipeline.dagster_home import dagster_environment
    from rag_pipeline.stores.postgres import dagster_runs

    with open_pipeline() as pipeline:
        if "DAGSTER_PG_URL" not in os.environ:  # Without runs Dagster is not imported: that takes seconds.
            schema = dagster_runs.schema_beside(pipeline.settings.postgres_schema)
            with pipeline.stores.database.connection() as connection:
                if not dagster_runs.any_running(connection, schema):
                    return
        from rag_pipeline.defs.run_month import cancel_launched_runs

        os.environ.update(dagster_environment(pipeline.settings, pipeline.endpoints))
        cancel_launched_runs(pipeline, _CANCEL_SECONDS)
