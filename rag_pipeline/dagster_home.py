"""Where Dagster keeps its instance: a folder under `RAG_HOME`, and its own schema in the same PostgreSQL database.

Paths and variables only; nothing here imports Dagster.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import rag_pipeline
from rag_pipeline.errors import ConfigError, RagError, one_line
from rag_pipeline.private_files import make_home, make_private_folder
from rag_pipeline.stores.postgres.dagster_runs import schema_beside

if TYPE_CHECKING:
    from rag_pipeline.endpoints import Endpoints
    from rag_pipeline.settings import Settings

QUIET = {
    "DAGSTER_CLI_DEV_LOG_LEVEL": "warning",
    "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded",
}
"""Defaults for variables of `dagster dev`: its daemon writes several lines for every tick."""


def dagster_environment(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    """Return the variables that Dagster needs. Creates its home and its schema if they are missing.

    A `DAGSTER_PG_URL` that is set is kept, so that every command records its runs in the same place.
    """
    home = settings.home_path / "dagster"
    text = shipped("dagster.yaml").read_text("utf-8")
    try:
        make_home(settings.home_path)
        make_private_folder(home)  # The logs of all runs are in it.
        config = home / "dagster.yaml"
        if not config.exists() or config.read_text("utf-8") != text:
            config.write_text(text, "utf-8")
    except OSError as error:
        raise RagError(
            f"cannot write {home}: {one_line(error)}; fix that, or set RAG_HOME to another folder"
        ) from None

    storage = os.environ.get("DAGSTER_PG_URL")
    if not storage:
        schema = schema_beside(settings.postgres_schema)
        create_storage_schema(endpoints.postgres_url, schema)
        storage = storage_url(endpoints.postgres_url, schema)
    return {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_URL": storage,
        "RAG_HOME": str(settings.home_path),
        "RAG_SOURCES": str(settings.sources.expanduser().absolute()),
    }


def create_storage_schema(postgres_url: str, name: str) -> None:
    """Create the schema for Dagster's tables if it is missing. Raises `StoreUnavailableError`."""
    from rag_pipeline.stores.postgres import schema
    from rag_pipeline.stores.postgres.database import Database

    schema.create_schema(Database(postgres_url), name)


def storage_url(postgres_url: str, schema: str) -> str:
    """Return the URL of Dagster's storage: through psycopg2, in a schema separate from our tables.

    Its commits do not wait for the disk. If the server crashes, the last moment of Dagster's history can be missing, but
    no event before a commit of our own, which does wait: the log that PostgreSQL recovers from has one order.
    """
    scheme, separator, rest = postgres_url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigError(
            "RAG_POSTGRES_URL is not a URL: write it as postgresql://user:password@host:5432/database"
        )
    joint = "&" if "?" in rest else "?"
    options = f"-c search_path={schema} -c synchronous_commit=off"
    return f"postgresql+psycopg2://{rest}{joint}options={quote(options, safe='')}"


def shipped(name: str) -> Path:
    """Return the path of a file that is beside the package in a checkout, and inside it when installed."""
    package = Path(rag_pipeline.__file__).parent
    for folder in (package, package.parent):
        if (folder / name).is_file():
            return folder / name
    raise RagError(f"{name} is missing beside {package}: reinstall rag-pipeline")
