"""Dagster's own storage: the schema `dagster` in the index's PostgreSQL, or the database in `DAGSTER_PG_URL`.

`dagster.yaml` names the class, so that `rag-pipeline dev`, `dagster dev` and every other command of Dagster's share one
history, on the embedded server too: its port and password are not known to a file.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from typing import TYPE_CHECKING, Any

import click
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster_postgres import DagsterPostgresStorage

from rag_pipeline.dagster_home import create_storage_schema, storage_url
from rag_pipeline.defs.event_storage import StepEventLogStorage
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.pipeline import find_endpoints
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.dagster_runs import schema_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster._serdes import ConfigurableClassData


_QUESTIONS = (
    "has_table",
    "has_asset_key_col",
    "has_run_stats_index_cols",
    "has_bulk_actions_selector_cols",
    "has_backfill_id_column",
    "has_bulk_action_job_name_column",
)


class IndexDatabaseStorage(DagsterPostgresStorage):
    """Dagster's PostgreSQL storage, found through the `RAG_*` settings.

    It remembers which tables and columns there are. Dagster asks PostgreSQL with each materialization and each look at
    runs, for the sake of instances that were not migrated; a tenth of a month's run.
    """

    def __init__(self, postgres_url: str, *, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        self._event_log_storage = StepEventLogStorage(postgres_url)
        for storage in (self._event_log_storage, self._run_storage):
            for question in _QUESTIONS:
                if hasattr(storage, question):
                    setattr(storage, question, _remembering(getattr(storage, question)))

    @classmethod
    def config_type(cls) -> Any:
        """Return the schema of its configuration: it has none."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Any:
        """Connect, and create Dagster's tables if they are missing.

        Raises a `ClickException`, which Dagster's commands print as one line, if the server is down or was never
        started.
        """
        # Dagster sets it for `dg check defs` and `dagster definitions validate`, which work without any server.
        if os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):
            return _empty_storage()
        try:
            return cls(_url(), inst_data=inst_data)
        except RagError as error:
            raise click.ClickException(one_line(error)) from None


def _remembering(exists: Callable[..., bool]) -> Callable[..., bool]:
    """What exists stays; what does not can be created by a migration meanwhile, so only the first is remembered."""
    known: set[tuple[str, ...]] = set()

    def remembered(*names: str) -> bool:
        if names not in known and exists(*names):
            known.add(names)
        return names in known

    return remembered


def _url() -> str:
    if url := os.environ.get("DAGSTER_PG_URL"):
        return url
    settings = load_settings()
    postgres_url = find_endpoints(settings).postgres_url
    schema = schema_beside(settings.postgres_schema)
    create_storage_schema(postgres_url, schema)
    return storage_url(postgres_url, schema)


def _empty_storage() -> DagsterSqliteStorage:
    folder = tempfile.TemporaryDirectory(prefix="rag-pipeline-")
    atexit.register(folder.cleanup)
    return DagsterSqliteStorage.from_local(folder.name)
