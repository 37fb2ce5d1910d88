"""`migrate`: the schema alone, for a step of a deployment that comes before the processes that need it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from rag_pipeline.cli.common import open_pipeline, print_line, print_status
from rag_pipeline.errors import StoreUnavailableError, one_line

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_POLL_SECONDS = 1


@click.command()
@click.option(
    "--wait",
    default=60,
    show_default=True,
    type=click.IntRange(0, 3600),
    help="How many seconds to wait for PostgreSQL to answer.",
)
def migrate(wait: int) -> None:
    """Bring the database's schema up to date, and make the one for Dagster's tables; nothing else.

    Every other command does so by itself. This one is for a deployment, which does it once and before the rest starts.
    """
    with open_pipeline() as pipeline:
        changed = _when_it_answers(pipeline, wait)
        _make_dagster_schema(pipeline)
        where = pipeline.stores.database.where
    print_line(f"{where}: the schema {'is now' if changed else 'was already'} up to date")


def _when_it_answers(pipeline: Pipeline, seconds: int) -> bool:
    """Migrate as soon as PostgreSQL answers; whether there was something to do.

    Raises the last error if it does not within so many seconds. A wrong password is one of them: a server that is being
    set up can refuse a password that is right later.
    """
    from rag_pipeline.stores.postgres import schema

    deadline = time.monotonic() + seconds
    said = False
    while True:
        try:
            return schema.migrate(pipeline.stores.database)
        except StoreUnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                print_status(f"waiting up to {seconds} seconds: {one_line(error)}")
                said = True
        time.sleep(_POLL_SECONDS)


def _make_dagster_schema(pipeline: Pipeline) -> None:
    """Make the schema that Dagster's sessions ask for. Dagster makes the tables in it, but not the schema."""
    from rag_pipeline.dagster_home import create_storage_schema
    from rag_pipeline.stores.postgres.dagster_runs import schema_beside

    if not os.environ.get("DAGSTER_PG_URL"):
        create_storage_schema(pipeline.endpoints.postgres_url, schema_beside(pipeline.settings.postgres_schema))
