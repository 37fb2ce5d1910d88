"""`up`, `down`, `status` and `dev`: the embedded servers and Dagster."""

from __future__ import annotations

import sys

import click

from rag_pipeline.cli.output import json_option, open_pipeline, print_json, say
from rag_pipeline.settings import load_settings
from rag_pipeline.urls import mask_url


@click.command()
def up() -> None:
    """Start the embedded servers that no RAG_* URL replaces, and bring the schema up to date."""
    from rag_pipeline.stack import Stack

    settings = load_settings()
    endpoints = Stack(settings).up(say)
    with open_pipeline() as pipeline:
        pipeline.prepare()
        pipeline.load_collections()
    say(f"PostgreSQL {mask_url(endpoints.postgres_url)}")
    say(f"Milvus     {mask_url(endpoints.milvus_uri)}")
    say(f"Redis      {mask_url(endpoints.redis_url)}")


@click.command()
def down() -> None:
    """Stop the embedded servers. Data and ports stay."""
    from rag_pipeline.stack import Stack

    Stack(load_settings()).down(say)


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show where the servers are and whether they answer; exit 1 unless all do."""
    from rag_pipeline.stack import Stack

    found = Stack(load_settings()).status()
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            where = state.get("url") or state.get("uri") or "never started: run `rag-pipeline up`"
            click.echo(f"{name:<9} {'running' if state['running'] else 'down':<8} {where}")
    sys.exit(0 if all(state["running"] for state in found.values()) else 1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option(
    "--port", default=3000, show_default=True, help="Port of the Dagster UI; the next free one if taken."
)
def dev(host: str, port: int) -> None:
    """Start the servers, Dagster's UI and its daemon; Ctrl-C stops all of them."""
    from rag_pipeline.stack.dev import run_dev

    sys.exit(run_dev(load_settings(), host, port, say))
