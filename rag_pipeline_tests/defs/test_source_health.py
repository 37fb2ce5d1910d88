"""What Dagster shows of a source: its scans, its check, and when the next scan is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from rag_pipeline.defs import sensors
from rag_pipeline.defs.event_log import read_events
from rag_pipeline.indexing import scan
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline_tests.defs.ticks import tick_of_sensor
from rag_pipeline_tests.support.code_location import YEARLY, CodeLocation

DOCS = dg.AssetKey(["sources", "docs"])
CHECK = dg.AssetCheckKey(DOCS, "source_readable")


class Source:
    """The source of a code location, as its sensor and the UI see it."""

    def __init__(self, location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions) -> None:
        self.location = location
        self.instance = instance
        self.defs = defs
        self.cursor: str | None = None

    def tick(self, *, due: bool = True) -> str:
        if due:
            self.location.sql("UPDATE sources SET next_sync_at = NULL")
            self.cursor = None
        result = tick_of_sensor(self.defs, "sync_docs", self.instance, self.cursor)
        self.cursor = result.cursor
        return result.skip_message or ""

    def scans(self) -> list[dg.AssetMaterialization]:
        """Return the recorded scans, newest first."""
        records = self.instance.fetch_materializations(DOCS, limit=100).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def checks(self) -> list[dg.AssetCheckEvaluation]:
        """Return the evaluations of its check, newest first."""
        history = self.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=100)
        events = [record.event.dagster_event for record in history if record.event]
        return [event.asset_check_evaluation_data for event in events if event]


@pytest.fixture
def location(location: CodeLocation) -> CodeLocation:
    return location.scan_yearly()


@pytest.fixture
def source(location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions) -> Source:
    return Source(location, instance, defs)


def counts(event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> dict[str, object]:
    return {name: value.value for name, value in event.metadata.items() if isinstance(value, dg.IntMetadataValue)}


def test_every_complete_scan_is_recorded_with_its_counts(source: Source) -> None:
    source.location.write("a.md", "2024-01-05")
    source.location.write("b.md", "2024-01-06")
    assert "2 items: 2 new, 0 changed, 0 gone" in source.tick()
    source.tick()
    source.location.write("c.md", "2024-01-06")
    source.location.write("d.csv", "2024-01-06")
    assert "3 items: 1 new, 0 changed, 0 gone; not included: 1 .csv; next scan: " in source.tick()
    assert [recorded.metadata["not_included"].value for recorded in source.scans()] == [
        "1 .csv",
        "nothing",
        "nothing",
    ]
    assert [counts(recorded) for recorded in reversed(source.scans())] == [
        {"items": 2, "new": 2, "changed": 0, "gone": 0, "not_listed": 0},
        {"items": 2, "new": 0, "changed": 0, "gone": 0, "not_listed": 0},
        {"items": 3, "new": 1, "changed": 0, "gone": 0, "not_listed": 0},
    ]
    # What has not changed makes no asset downstream look stale.
    versions = [(recorded.tags or {})["dagster/data_version"] for recorded in reversed(source.scans())]
    assert versions == ["1", "1", "2"]
    assert [check.passed for check in source.checks()] == [True, True, True]


def test_a_tick_that_comes_too_early_opens_nothing_and_says_when_the_next_scan_is(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(_: Pipeline) -> None:
        raise AssertionError("a tick that is not due opened the pipeline")

    message = source.tick()
    next_scan = datetime.fromisoformat(message.split("next scan: ")[1])
    assert next_scan == source.location.sql("SELECT next_sync_at FROM sources")[0][0]
    assert next_scan > datetime.now(UTC)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "prepare", prepare)
        assert source.tick(due=False) == (
            f"docs is not due yet ({YEARLY}); next scan: {next_scan.isoformat(timespec='seconds')}"
        )
    # Without a cursor, as after an update, PostgreSQL knows.
    source.cursor = None
    assert "is not due yet" in source.tick(due=False)
    assert len(source.scans()) == 1


def test_a_source_that_cannot_be_reached_fails_its_check_until_it_can(source: Source) -> None:
    docs = source.location.docs
    away = docs.rename(docs.with_name("away"))
    message = source.tick()
    assert "docs does not exist" in message
    assert "next scan: " in message
    failed = source.checks()[0]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "docs does not exist" in (failed.description or "")
    assert source.scans() == []
    away.rename(docs)
    source.tick()
    assert source.checks()[0].passed
    assert len(source.scans()) == 1


def test_items_that_cannot_be_read_are_named(source: Source) -> None:
    source.location.write("a.md", "2024-01-05")
    (source.location.docs / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is not a PDF\n%%EOF")
    source.location.ingest()
    source.tick()
    check = source.checks()[0]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "items that cannot be read: 1 (docs:broken.pdf: broken PDF" in (check.description or "")
    assert counts(check) == {"not_listed": 0, "not_readable": 1}


def test_the_check_can_be_executed_by_hand(source: Source) -> None:
    def execute() -> dg.AssetCheckEvaluation:
        job = source.defs.resolve_implicit_global_asset_job_def().get_subset(
            asset_selection=set(), asset_check_selection={CHECK}
        )
        (evaluation,) = job.execute_in_process(instance=source.instance).get_asset_check_evaluations()
        return evaluation

    assert execute().description == "not scanned yet"
    source.location.docs.rename(source.location.docs.with_name("away"))
    source.tick()
    assert "docs does not exist" in (execute().description or "")


def test_a_pass_over_several_ticks_is_recorded_once_with_all_of_it(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        source.location.write(f"{number}.md", "2024-01-05")
        source.location.write(f"{number}.csv", "2024-01-05")
    monkeypatch.setattr(scan, "_SLICE", 2)
    monkeypatch.setattr(sensors, "_SCAN_SECONDS", -1)
    messages = [source.tick(), *(source.tick(due=False) for _ in range(3))]
    assert [message.split(";")[0] for message in messages] == [
        "2 items: 2 new, 0 changed, 0 gone",
        "4 items: 4 new, 0 changed, 0 gone",
        "5 items: 5 new, 0 changed, 0 gone",
        "5 items: 5 new, 0 changed, 0 gone",
    ]
    assert [counts(recorded)["new"] for recorded in source.scans()] == [5]
    assert source.scans()[0].metadata["not_included"].value == "5 .csv"


def test_a_scan_by_another_process_is_no_failure(source: Source) -> None:
    source.tick()
    with Pipeline(load_settings()) as pipeline, advisory_lock(pipeline.stores.database, "source docs", 0):
        assert source.tick() == "another process is scanning docs"


def test_only_an_unreachable_source_alerts_and_not_its_unreadable_items(source: Source) -> None:
    """Those are reported by the check of their month."""

    def failing() -> list[str]:
        page = read_events(source.instance, 0, datetime.now(UTC) + timedelta(minutes=1))
        return [seen.subject.name for seen in page.observations if not seen.passed]

    source.location.write("a.md", "2024-01-05")
    (source.location.docs / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        ingest(pipeline)
    source.tick()
    assert not source.checks()[0].passed
    assert failing() == []
    source.location.docs.rename(source.location.docs.with_name("elsewhere"))
    source.tick()
    assert failing() == ["source_readable on sources/docs"]
