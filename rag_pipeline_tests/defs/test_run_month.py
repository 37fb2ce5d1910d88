"""A month's run in the process of `rag-pipeline ingest`, as the UI shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from rag_pipeline.defs import run_month as run_month_module
from rag_pipeline.defs.metadata import links
from rag_pipeline.defs.month_steps import documents_step
from rag_pipeline.defs.run_month import run_month
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.milvus.collections import Collections
from rag_pipeline.stores.postgres import schema_inspection
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline.stores.postgres.schema_inspection import SchemaProblem
from rag_pipeline_tests.support.code_location import CodeLocation

WORKSPACE = Path(__file__).parents[2] / "workspace.yaml"


def test_it_belongs_to_the_code_location_and_counts_the_chunks_that_it_made(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    run = location.only_run(instance)
    assert run.remote_job_origin is not None, "the timeline leaves out runs without one"
    [place] = yaml.safe_load(WORKSPACE.read_text("utf-8"))["load_from"]
    assert run.remote_job_origin.location_name == place["python_module"]["location_name"]
    assert run.remote_job_origin.job_name == "index_month"
    assert run.tags["dagster/max_retries"] == "0", "the daemon does not repeat what the sensor repeats"
    for asset, chunks in (("documents", [None]), ("document_chunks", [1])):
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        newest = event.asset_materialization.metadata["newest_documents"]
        assert isinstance(newest, dg.TableMetadataValue)
        assert [record.data.get("chunks") for record in newest.records] == chunks
    ((document, title),) = location.sql("SELECT id, title FROM documents")
    shown = event.asset_materialization.metadata["on_the_search_page"].value
    assert shown == f"- [{title}](http://127.0.0.1:8000/documents/{document})"


def test_what_was_guessed_in_a_document_is_in_the_metadata_of_its_month(location: CodeLocation) -> None:
    (location.docs / "a.md").write_bytes("---\ndate: 2024-01-05\n---\n齋藤 髙橋 渡邊".encode("cp932"))
    location.write("b.md", "2024-01-05")
    location.scan()
    with Pipeline(load_settings()) as pipeline:
        metadata = documents_step(pipeline, Month(2024, 1), MonthRun())
    assert metadata["documents_with_warnings"] == 1
    assert [record.data for record in metadata["document_warnings"].records] == [
        {"document": "docs:a.md", "warnings": "no encoding is declared; the file was read as cp932"}
    ]


def test_the_title_of_a_document_is_text_in_markdown() -> None:
    shown = links([("a [b](javascript:alert(1)) <img>\n# *c*", "http://x/1")]).value
    assert shown == r"- [a \[b\]\(javascript:alert\(1\)\) \<img\> \# \*c\*](http://x/1)"
    assert links([]).value == "none"


@contextmanager
def dagsters_statements() -> Iterator[list[str]]:
    """What Dagster's storage asks PostgreSQL."""
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append(f"{statement} {parameters}")

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_dagster_is_asked_once_for_what_does_not_change(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    with Pipeline(load_settings()) as pipeline, dagsters_statements() as asked:
        pipeline.prepare()
        for text in ("first", "second"):
            location.write("a.md", "2024-01-05", text)
            asked.clear()
            assert ingest(pipeline, run=run_month).errors == []
    assert asked
    for table in ("asset_keys", "asset_event_tags", "asset_check_executions", "dynamic_partitions", "runs"):
        assert not [one for one in asked if "pg_catalog" in one and f"'{table}'" in one], table
    of_materializations = [one for one in asked if one.startswith("SELECT") and "'ASSET_MATERIALIZATION'" in one]
    assert len(of_materializations) < 19, "once for each asset, not for each check"


REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN
        IF NEW.dagster_event_type LIKE '%MATERIALIZATION' OR NEW.dagster_event_type IS NULL THEN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100',
                HINT = 'Check free disk space.';
        END IF;
        RETURN NEW;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuse BEFORE INSERT ON dagster.event_logs FOR EACH ROW EXECUTE FUNCTION refuse()"""


def test_a_full_disk_is_said_in_one_line_and_is_no_server_that_is_down(
    location: CodeLocation, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    location.write("a.md", "2024-01-05")
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        location.sql(REFUSE)
        try:
            with pytest.raises(StoreUnavailableError) as raised:
                ingest(pipeline, run=run_month)
        finally:
            location.sql("DROP FUNCTION refuse CASCADE")
    found = str(raised.value)
    assert found.startswith(
        "PostgreSQL refused to work while Dagster recorded the run of 2024-01: could not extend"
    )
    assert "No space left on device; free space on its disk and run again" in found
    printed = capfd.readouterr().err
    assert "No space left on device" in printed
    assert not [word for word in ("[SQL", "[parameters", "Background on this error", "INSERT") if word in printed]


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("server closed the connection unexpectedly, while processing the request.\n", None, "unreachable while"),
        ("terminating connection due to administrator command", "57P01", "start it (the embedded one"),
        ("FATAL:  sorry, too many clients already", None, "end other connections to it"),
        ("out of memory", "53200", "more memory"),
        ("canceling statement due to statement timeout", "57014", "PostgreSQL failed while"),
        ('relation "event_logs" does not exist', "42P01", "PostgreSQL failed while"),
    ],
)
def test_what_became_of_dagsters_storage_decides_what_to_do(text: str, state: str | None, said: str) -> None:
    original = Exception(text)
    original.pgcode = state  # type: ignore[attr-defined]
    found = str(run_month_module._unavailable(OperationalError("INSERT", {}, original), "the run of 2024-01"))
    assert said in found
    assert ".;" not in found
    assert "\n" not in found


def write_and_ingest(location: CodeLocation, pipeline: Pipeline, text: str, *dates: str) -> None:
    for date in dates:
        location.write(f"{date}.md", date, text)
    assert ingest(pipeline, run=run_month).errors == []


def test_the_index_as_a_whole_is_looked_at_once_for_all_months(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Database] = []
    real = schema_inspection.schema_problems

    def look(database: Database) -> list[SchemaProblem]:
        looks.append(database)
        return real(database)

    monkeypatch.setattr(schema_inspection, "schema_problems", look)
    months = ("2024-01-05", "2024-02-05", "2024-03-05")
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        write_and_ingest(location, pipeline, "first", *months)
    assert len(looks) == 3, "nothing is known of these months yet"
    with Pipeline(load_settings()) as pipeline:
        write_and_ingest(location, pipeline, "second", *months)
        assert len(looks) == 3 + 1
        location.sql("DROP INDEX idx_documents_language")
        monkeypatch.setattr("rag_pipeline.defs.month_checks._SOUND_SECONDS", 0.0)
        write_and_ingest(location, pipeline, "third", *months)
    assert len(looks) == 3 + 1 + 3, "long after the last look"
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [key := dg.AssetCheckKey(dg.AssetKey("documents"), "index_issues")]
    )[key]
    assert found.status == AssetCheckExecutionRecordStatus.FAILED


def test_the_index_as_a_whole_is_looked_at_again_for_a_month_whose_check_failed(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("documents"), "index_issues")
    months = ("2024-01-05", "2024-02-05")

    def status() -> list[AssetCheckExecutionRecordStatus]:
        return [
            instance.event_log_storage.get_asset_check_execution_history(
                key, limit=1, partition_filter=PartitionKeyFilter(key=f"{month[:7]}-01")
            )[0].status
            for month in months
        ]

    failed, succeeded = AssetCheckExecutionRecordStatus.FAILED, AssetCheckExecutionRecordStatus.SUCCEEDED
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        write_and_ingest(location, pipeline, "first", *months)
        assert status() == [succeeded, succeeded]
        location.sql("DROP INDEX idx_documents_language")
        # Somebody else's check of January finds it.
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key.asset_key, check_name=key.name, passed=False, partition="2024-01-01"
            )
        )
        write_and_ingest(location, pipeline, "second", *months)
    assert status() == [failed, failed], "January's alert stays, and what is wrong is wrong for February too"


def test_what_is_wrong_with_the_index_as_a_whole_is_looked_at_again_for_each_month(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        location.sql("DROP INDEX idx_documents_language")
        write_and_ingest(location, pipeline, "first", "2024-01-05", "2024-02-05")
    for month in ("2024-01-01", "2024-02-01"):
        [found] = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("documents"), "index_issues"),
            limit=1,
            partition_filter=PartitionKeyFilter(key=month),
        )
        assert found.status == AssetCheckExecutionRecordStatus.FAILED, month


def test_few_rows_of_several_months_are_flushed_once(
    location: CodeLocation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[Collections] = []
    real = Collections.flush

    def flush(collections: Collections) -> None:
        flushes.append(collections)
        real(collections)

    monkeypatch.setattr(Collections, "flush", flush)
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        write_and_ingest(location, pipeline, "first", "2024-01-05", "2024-02-05", "2024-03-05")
        assert len(flushes) == 1
        assert len(search(pipeline, "first").hits) == 3
        monkeypatch.setattr("rag_pipeline.stores.milvus.collections._MANY_ROWS", 2)
        write_and_ingest(location, pipeline, "second", "2024-01-05", "2024-02-05", "2024-03-05")
        assert len(flushes) == 3, (
            "after two months, whose indexes are built while the third is written; at the end"
        )
        write_and_ingest(location, pipeline, "second", "2024-01-05")
        assert len(flushes) == 3, "nothing was written"


def test_each_check_names_the_materialization_that_it_is_about(
    location: CodeLocation, instance: dg.DagsterInstance
) -> None:
    run = location.only_run(instance)
    for asset in ("documents", "document_chunks", "dense_collection", "sparse_collection", "multi_collection"):
        records = instance.event_log_storage.get_event_records(
            dg.EventRecordsFilter(dg.DagsterEventType.ASSET_MATERIALIZATION, asset_key=dg.AssetKey(asset)), 1
        )
        for evaluation in evaluations(instance, run.run_id, asset):
            target = evaluation.target_materialization_data
            assert target is not None
            assert target.storage_id == records[0].storage_id, evaluation.check_name


def evaluations(instance: dg.DagsterInstance, run_id: str, asset: str) -> list[dg.AssetCheckEvaluation]:
    found = [
        entry.dagster_event.asset_check_evaluation_data
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if entry.dagster_event is not None
    ]
    of_asset = [evaluation for evaluation in found if evaluation.asset_key == dg.AssetKey(asset)]
    assert len(of_asset) > 1
    return of_asset
