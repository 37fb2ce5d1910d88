"""Who writes to a collection at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rag_pipeline.errors import BusyError, LockLostError
from rag_pipeline.stores import collection_lock
from rag_pipeline.stores.collection_lock import no_writers, writing
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.databases import end_idle_lock_sessions

LITE: Any = SimpleNamespace(is_lite=True)
SERVER: Any = SimpleNamespace(is_lite=False)


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    for limit in ("_WAIT_SECONDS", "_REBUILD_WAIT_SECONDS"):
        monkeypatch.setattr(collection_lock, limit, 0)
    database = Database(database_url)
    yield database
    database.close()


def test_writers_to_a_server_share_a_collection_and_those_to_lite_do_not(database: Database) -> None:
    with writing(database, SERVER, "dense_1"), writing(database, SERVER, "dense_1"):
        pass
    with writing(database, LITE, "dense_1"), writing(database, LITE, "sparse_1"):
        pass
    with (
        writing(database, LITE, "dense_1"),
        pytest.raises(BusyError, match="collection dense_1"),
        writing(database, LITE, "dense_1"),
    ):
        pass


@pytest.mark.parametrize("milvus", [LITE, SERVER], ids=["lite", "server"])
def test_a_rebuild_waits_for_writers_and_keeps_them_out(database: Database, milvus: Any) -> None:
    with writing(database, milvus, "dense_1"), pytest.raises(BusyError), no_writers(database, "dense_1"):
        pass
    with no_writers(database, "dense_1"), pytest.raises(BusyError), writing(database, milvus, "dense_1"):
        pass
    with writing(database, milvus, "dense_1"):
        pass


def test_a_rebuild_notices_that_writers_are_no_longer_kept_out(database: Database) -> None:
    with no_writers(database, "dense_1"):
        database.check_guards()
        end_idle_lock_sessions(database)
        with pytest.raises(LockLostError, match="collection dense_1"):
            database.check_guards()
