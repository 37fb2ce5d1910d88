"""`sources.yaml` is edited after the code location was loaded: every tick and every run goes by the file as it is now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.postgres.advisory_locks import advisory_lock
from rag_pipeline_tests.defs.ticks import requested_months, tick_of_sensor
from rag_pipeline_tests.support.code_location import YEARLY, CodeLocation

STATES = "SELECT source_id, state FROM source_items ORDER BY 1"
ACTIVE = "SELECT name, is_active FROM sources ORDER BY 1"


def entry(name: str = "docs", **fields: object) -> str:
    rest = "".join(f", {key}: {value}" for key, value in fields.items())
    return f"{{name: {name}, type: filesystem, path: ./docs, schedule: '{YEARLY}'{rest}}}"


Write = Callable[..., Path]


@pytest.fixture
def write_sources(location: CodeLocation) -> Write:
    """Write the file with these entries; before the definitions are loaded it has one."""
    path = load_settings().sources

    def write(*entries: str) -> Path:
        path.write_text(f"sources: [{', '.join(entries)}]\n", "utf-8")
        return path

    write(entry())
    return write


@pytest.fixture
def defs(write_sources: Write) -> dg.Definitions:
    from rag_pipeline.defs.build import build_defs

    return build_defs()


def failure(defs: dg.Definitions, name: str, instance: dg.DagsterInstance) -> str:
    with pytest.raises(Exception, match=r"sources\.yaml") as raised:
        tick_of_sensor(defs, name, instance)
    return str(raised.value)


def test_a_folder_that_was_excluded_since_stays_out(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, write_sources: Write
) -> None:
    for name in ("a.md", "b.md", "secret/c.md"):
        location.write(name, "2024-01-05")
    first = tick_of_sensor(defs, "sync_docs", instance)
    assert "3 new" in (first.skip_message or "")
    assert "is not due yet" in (tick_of_sensor(defs, "sync_docs", instance, first.cursor).skip_message or "")
    location.ingest()
    write_sources(entry(exclude="[secret/]"))
    # The settings are others, so it is due at once, whatever the schedule says; and it stays due while it is scanned
    # by somebody else, who can have begun before the edit.
    with Pipeline(load_settings()) as pipeline, advisory_lock(pipeline.stores.database, "source docs", 0):
        busy = tick_of_sensor(defs, "sync_docs", instance, first.cursor)
    assert busy.skip_message == "another process is scanning docs"
    assert "1 gone" in (tick_of_sensor(defs, "sync_docs", instance, busy.cursor).skip_message or "")
    location.ingest()
    location.sql("UPDATE sources SET next_sync_at = NULL")
    again = tick_of_sensor(defs, "sync_docs", instance)
    assert "2 items: 0 new, 0 changed, 0 gone" in (again.skip_message or "")
    assert location.sql(STATES) == [("docs:a.md", "ingested"), ("docs:b.md", "ingested")]


def test_a_source_whose_entry_was_removed_is_not_scanned_and_its_items_are_no_failures(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, write_sources: Write
) -> None:
    location.write("a.md", "2024-01-05")
    (location.docs / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    location.write("b.md", "2024-01-05")
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
    location.scan()
    write_sources()
    message = tick_of_sensor(defs, "sync_docs", instance).skip_message or ""
    assert message.startswith("not scanned: docs is no longer in ")
    assert message.endswith("its documents stay until `rag-pipeline sources --remove docs`")
    tick_of_sensor(defs, "index_pending_months", instance)
    assert location.sql(ACTIVE) == [("docs", False)]
    key = Month(2024, 1).partition_key
    assert defs.resolve_job_def("index_month").execute_in_process(partition_key=key, instance=instance).success
    assert {state for _, state in location.sql(STATES)} == {"pending"}
    # What an older program quarantined for that reason is taken up when the entry is back.
    location.sql("UPDATE source_items SET state = 'failed', retry_at = now() + interval '1 day'")
    write_sources(entry())
    tick_of_sensor(defs, "sync_docs", instance)
    location.ingest()
    assert location.sql(STATES) == [
        ("docs:a.md", "ingested"),
        ("docs:b.md", "ingested"),
        ("docs:broken.pdf", "failed"),
    ]


def test_a_mistake_and_its_correction_need_no_reload(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, write_sources: Write
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    asked = tick_of_sensor(defs, "index_pending_months", instance)
    assert requested_months(asked) == [Month(2024, 1)]
    asked = tick_of_sensor(defs, "index_pending_months", instance, asked.cursor)
    assert requested_months(asked) == [], "not twice at once"
    path = write_sources("{name: docs, type: filesystem, pth: ./docs}")
    assert "unknown key 'pth'" in failure(defs, "sync_docs", instance)
    assert tick_of_sensor(defs, "sources_file", instance).skip_message == (
        "valid sources: 0; with a mistake, which their own sensors report: docs"
    )
    asked = tick_of_sensor(defs, "index_pending_months", instance, asked.cursor)
    path.write_text("sources: [\n", "utf-8")
    assert "line 2, column 1" in failure(defs, "sources_file", instance)
    assert "line 2, column 1" in (tick_of_sensor(defs, "sync_docs", instance).skip_message or "")
    assert (location.sql(STATES), location.sql(ACTIVE)) == ([("docs:a.md", "pending")], [("docs", True)])
    write_sources(entry())
    assert tick_of_sensor(defs, "sources_file", instance).skip_message == "valid sources: 1"
    asked = tick_of_sensor(defs, "index_pending_months", instance, asked.cursor)
    assert requested_months(asked) == [Month(2024, 1)], "the pause is over"


def test_a_source_that_was_loaded_with_a_mistake_is_scanned_once_that_is_corrected(
    location: CodeLocation, instance: dg.DagsterInstance, write_sources: Write
) -> None:
    from rag_pipeline.defs.build import build_defs

    write_sources("{name: docs, type: filesystem, pth: ./docs}")
    defs = build_defs()
    location.write("a.md", "2024-01-05")
    assert "unknown key 'pth'" in failure(defs, "sync_docs", instance)
    write_sources(entry())
    assert "1 new" in (tick_of_sensor(defs, "sync_docs", instance).skip_message or "")


def test_a_new_source_is_configured_and_said_to_need_a_reload(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, write_sources: Write
) -> None:
    location.write("a.md", "2024-01-05")
    write_sources(entry(), entry("more"))
    location.ingest()
    tick_of_sensor(defs, "index_pending_months", instance)
    assert location.sql(ACTIVE) == [("docs", True), ("more", True)]
    assert tick_of_sensor(defs, "sources_file", instance).skip_message == (
        "valid sources: 2; without a sensor yet, because they are new: more: reload the code location (Deployment, Reload)"
    )
    write_sources(entry(), "{name: more, type: filesystem, pth: ./docs}")
    assert "unknown key 'pth'" in failure(defs, "sources_file", instance)


def test_what_a_run_reads_with_other_settings_than_the_scan_is_looked_at_again(
    location: CodeLocation, write_sources: Write
) -> None:
    location.write("a.md", "2024-01-05")
    location.scan()
    write_sources(entry(category="manual"))
    with Pipeline(load_settings()) as pipeline:
        ingest_documents(pipeline, Month(2024, 1))
        assert location.sql("SELECT category FROM documents") == [("manual",)]
        assert location.sql(STATES) == [("docs:a.md", "pending")]
        # Without a note of what it was read with, the next scan would take the old settings for done.
        write_sources(entry())
        assert pipeline.sources["docs"].category is None
    location.ingest()
    assert location.sql("SELECT category FROM documents") == [(None,)]
    assert location.sql(STATES) == [("docs:a.md", "ingested")]
