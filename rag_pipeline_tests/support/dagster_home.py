"""A Dagster instance whose storage is PostgreSQL, as in a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
import pytest

from rag_pipeline.dagster_home import dagster_environment
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.settings import Settings


@dataclass
class DagsterHome:
    """A Dagster home, and the variables with which other processes find it."""

    variables: Mapping[str, str]
    instance: dg.DagsterInstance

    def wipe(self) -> None:
        """Forget all events, runs and ticks."""
        self.instance.event_log_storage.wipe()
        self.instance.run_storage.wipe()
        assert self.instance.schedule_storage is not None
        self.instance.schedule_storage.wipe()


@contextmanager
def dagster_home(settings: Settings, endpoints: Endpoints) -> Iterator[DagsterHome]:
    """A home in `settings.home`, whose tables are in the database of `endpoints`; sets its variables meanwhile."""
    variables = dagster_environment(settings, endpoints) | {
        "RAG_POSTGRES_URL": endpoints.postgres_url,
        "RAG_MILVUS_URI": endpoints.milvus_uri,
        "RAG_REDIS_URL": endpoints.redis_url,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
            yield DagsterHome(variables, instance)
