"""Old runs are deleted, and Dagster shows the same state of every asset, partition and check as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.tags import CODE_LOCATION_TAG
from dagster_postgres import PostgresRunStorage

from rag_pipeline.defs.check_history import _sound_before
from rag_pipeline.defs.run_history import Expired, expire_history, is_due_again
from rag_pipeline.defs.run_month import record_scan, run_month, run_months
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline_tests.defs.ticks import tick_of_schedule
from rag_pipeline_tests.support.code_location import CodeLocation

JANUARY, FEBRUARY = Month(2024, 1), Month(2024, 2)
ASSETS = ("documents", "document_chunks", "dense_collection", "sparse_collection", "multi_collection")


@pytest.fixture
def pipeline(location: CodeLocation, instance: dg.DagsterInstance) -> Iterator[Pipeline]:
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        yield pipeline


class History:
    """What Dagster holds, in its schema."""

    def __init__(self, location: CodeLocation) -> None:
        self._url = location.postgres_url

    def sql(self, statement: str, *values: object) -> list[tuple]:
        with psycopg.connect(self._url, options="-c search_path=dagster") as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def age(self, days: int) -> None:
        """Let everything have happened so many days ago."""
        for table, columns in {
            "runs": ("create_timestamp", "update_timestamp"),
            "event_logs": ("timestamp",),
            "asset_check_executions": ("create_timestamp", "evaluation_event_timestamp"),
        }.items():
            moved = ", ".join(f"{column} = {column} - make_interval(days => %s)" for column in columns)
            self.sql(f"UPDATE {table} SET {moved}", *(days for _ in columns))

    def sizes(self) -> dict[str, int]:
        tables = ("runs", "run_tags", "event_logs", "asset_check_executions", "asset_event_tags")
        return {table: self.sql(f"SELECT count(*) FROM {table}")[0][0] for table in tables}

    def orphans(self) -> int:
        return (
            sum(
                self.sql(
                    f"SELECT count(*) FROM {table} t WHERE run_id <> '' AND NOT EXISTS "
                    "(SELECT FROM runs r WHERE r.run_id = t.run_id)"
                )[0][0]
                for table in ("event_logs", "asset_check_executions")
            )
            + (
                self.sql(
                    "SELECT count(*) FROM asset_event_tags t WHERE NOT EXISTS "
                    "(SELECT FROM event_logs e WHERE e.id = t.event_id)"
                )[0][0]
            )
        )


@pytest.fixture
def history(location: CodeLocation, instance: dg.DagsterInstance) -> History:
    return History(location)


def edit_and_run(location: CodeLocation, pipeline: Pipeline, *dates: str, together: bool = False) -> None:
    for date in dates:
        path = location.write(f"{date}.md", date)
        path.write_text(path.read_text("utf-8") + f"\n編集{path.stat().st_mtime_ns}。\n", "utf-8")
    result = ingest(pipeline, run=run_month, run_together=run_months if together else None, on_scan=record_scan)
    assert result.errors == []


def shown(instance: dg.DagsterInstance) -> dict[str, object]:
    """The state of the assets, their partitions and their checks, as Dagster tells it."""
    state: dict[str, object] = {}
    for asset in (*ASSETS, "sources/docs"):
        key = dg.AssetKey(asset.split("/"))
        latest = instance.get_latest_materialization_event(key)
        assert latest is not None, asset
        state[asset] = latest.run_id, latest.timestamp
        state[f"{asset} by partition"] = dict(
            instance.event_log_storage.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
        )
    for month in (JANUARY, FEBRUARY):
        state[f"checks of {month}"] = _sound_before(instance, "none", month)
    return state


def test_what_is_shown_of_the_present_stays(
    location: CodeLocation, instance: dg.DagsterInstance, pipeline: Pipeline, history: History
) -> None:
    edit_and_run(location, pipeline, "2024-01-05", "2024-02-05")  # Of February this is the last run.
    for _ in range(2):
        edit_and_run(location, pipeline, "2024-01-05")
    before, [*runs] = shown(instance), [run.run_id for run in instance.get_runs()]
    assert len(runs) == 4
    history.age(91)
    sizes = history.sizes()
    expired = expire_history(instance, pipeline, "rag_pipeline")
    assert expired == Expired(runs=2, scans=2), "January's first two, and all scans but the last"
    assert {run.run_id for run in instance.get_runs()} == {runs[0], runs[2]}
    assert shown(instance) == before
    assert history.orphans() == 0
    assert all(size < sizes[table] for table, size in history.sizes().items())
    assert expire_history(instance, pipeline, "rag_pipeline") == Expired()
    # The next run needs nothing that is gone.
    edit_and_run(location, pipeline, "2024-01-05")
    assert len(instance.get_runs()) == 3


def test_a_run_of_several_months_stays_while_it_is_the_last_of_one(
    location: CodeLocation, instance: dg.DagsterInstance, pipeline: Pipeline, history: History
) -> None:
    edit_and_run(location, pipeline, "2024-01-05", "2024-02-05", together=True)
    edit_and_run(location, pipeline, "2024-01-05", together=True)
    history.age(91)
    assert expire_history(instance, pipeline, "rag_pipeline").runs == 0
    edit_and_run(location, pipeline, "2024-02-05", together=True)
    assert expire_history(instance, pipeline, "rag_pipeline").runs == 1


def test_what_is_young_unfinished_or_of_others_stays(
    location: CodeLocation,
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    history: History,
    defs: dg.Definitions,
) -> None:
    for _ in range(4):
        edit_and_run(location, pipeline, "2024-01-05")
    oldest, of_others, unfinished, _ = reversed([run.run_id for run in instance.get_runs()])
    history.age(89)
    assert expire_history(instance, pipeline, "rag_pipeline") == Expired()
    history.age(2)
    history.sql(
        "UPDATE run_tags SET value = 'invoices' WHERE run_id = %s AND key = %s", of_others, CODE_LOCATION_TAG
    )
    history.sql("UPDATE runs SET status = 'STARTED' WHERE run_id = %s", unfinished)
    assert expire_history(instance, pipeline, "rag_pipeline").runs == 1
    left = {run.run_id for run in instance.get_runs()}
    assert oldest not in left
    assert {of_others, unfinished} < left
    assert expire_history(instance, pipeline, "invoices").runs == 1


def test_all_evaluations_of_searches_stay_because_they_are_plotted(
    instance: dg.DagsterInstance, pipeline: Pipeline, history: History, defs: dg.Definitions
) -> None:
    for _ in range(2):
        assert defs.resolve_job_def("evaluate_search").execute_in_process(instance=instance).success
    assert defs.resolve_job_def("create_partitions").execute_in_process(instance=instance).success
    history.sql(
        "INSERT INTO run_tags (run_id, key, value) SELECT run_id, %s, 'rag_pipeline' FROM runs",
        CODE_LOCATION_TAG,
    )
    history.age(400)
    assert expire_history(instance, pipeline, "rag_pipeline").runs == 1
    assert {run.job_name for run in instance.get_runs()} == {"evaluate_search"}
    assert len(instance.get_runs()) == 2


def test_what_an_interrupted_deletion_left_the_next_one_deletes(
    location: CodeLocation,
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(3):
        edit_and_run(location, pipeline, "2024-01-05")
    history.age(91)
    with monkeypatch.context() as patch:
        patch.setattr(PostgresRunStorage, "connect", interrupted_at(2, PostgresRunStorage.connect))
        with pytest.raises(KeyboardInterrupt):
            expire_history(instance, pipeline, "rag_pipeline")
    assert len(instance.get_runs()) == 3, "their events are gone, they are not"
    expire_history(instance, pipeline, "rag_pipeline")
    assert (len(instance.get_runs()), history.orphans()) == (1, 0)


def interrupted_at(call: int, real: object) -> object:
    """A method that is interrupted in one of its calls: the first asks which runs are old, the second deletes them."""
    calls = []

    def method(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[operator]

    return method


def test_the_job_deletes_the_logs_too_and_says_how_many_runs(
    location: CodeLocation,
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    history: History,
    defs: dg.Definitions,
    tmp_path: Path,
) -> None:
    edit_and_run(location, pipeline, "2024-01-05")
    edit_and_run(location, pipeline, "2024-01-05")
    last, first = (run.run_id for run in instance.get_runs())
    folders = [Path(instance.storage_directory()) / run_id for run_id in (first, last)]
    for folder in folders:
        (folder / "compute_logs").mkdir(parents=True)
    history.age(91)
    result = defs.resolve_job_def("expire_history").execute_in_process(instance=instance)
    assert result.success
    said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "deleted 1 runs in all, and 1 scans of sources" in said
    assert [folder.exists() for folder in folders] == [False, True]


def test_all_is_kept_if_the_setting_says_so_or_another_process_deletes(
    location: CodeLocation,
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    history: History,
    defs: dg.Definitions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit_and_run(location, pipeline, "2024-01-05")
    edit_and_run(location, pipeline, "2024-01-05")
    history.age(9999)
    with advisory_lock(pipeline.stores.database, "Dagster's history", 0):
        assert expire_history(instance, pipeline, "rag_pipeline") == Expired()
    assert len(tick_of_schedule(defs, "expire_history").run_requests or ()) == 1
    monkeypatch.setenv("RAG_HISTORY_DAYS", "0")
    assert "all runs are kept" in (tick_of_schedule(defs, "expire_history").skip_message or "")
    with Pipeline(load_settings()) as keeping:
        assert expire_history(instance, keeping, "rag_pipeline") == Expired()
    assert expire_history(instance, pipeline, "rag_pipeline").runs == 1


def test_an_ingest_does_it_once_an_hour(
    instance: dg.DagsterInstance, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_due_again(instance)
    assert not is_due_again(instance)
    history.sql("UPDATE kvs SET value = '2024-01-01T00:00:00+00:00'")
    assert is_due_again(instance)
    assert not is_due_again(instance)
