"""What scans store, and scans of several sources, and runs of months, at the same time."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace

import pytest

from rag_pipeline.cli.ingest_commands import _documents
from rag_pipeline.indexing import scan as module
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.sources import connect
from rag_pipeline.sources.interface import Item, Source
from rag_pipeline.stores.postgres import source_items, sources
from rag_pipeline_tests.support.databases import wait_for_blocked_session
from rag_pipeline_tests.support.index import Index

MARCH = Month(2024, 3)
STATISTICS = "SELECT name, total_documents, successful_documents, failed_documents FROM sources ORDER BY name"


def several_sources(index: Index, names: str, documents: int) -> None:
    for name in names:
        for number in range(documents):
            index.write(f"{name}/{number}.md", f"# {name}\n\n本文{number}。\n")
    entries = ", ".join(f"{{name: {name}, type: filesystem, path: ./docs/{name}}}" for name in names)
    index.sources.write_text(f"sources: [{entries}]\n", "utf-8")


def scan(index: Index, deadline: float | None = None) -> bool:
    with index.open() as pipeline:
        return scan_source(pipeline, pipeline.source("docs"), deadline=deadline, confirm_deletions=True).complete


def test_a_scan_writes_no_item_that_has_not_changed(index: Index) -> None:
    for number in range(5):
        index.write(f"{number}.md", f"# {number}\n\n本文。\n")
    index.ingest()
    written = index.rows("SELECT source_id, xmin::text, ctid::text FROM source_items ORDER BY 1")
    assert scan(index)
    assert index.rows("SELECT source_id, xmin::text, ctid::text FROM source_items ORDER BY 1") == written
    index.write("3.md", "# 3\n\n別の本文。\n")
    index.delete("1.md")
    assert scan(index)
    now = index.rows("SELECT source_id, xmin::text, ctid::text FROM source_items ORDER BY 1")
    assert [row[0] for row in set(now) - set(written)] in (
        ["docs:1.md", "docs:3.md"],
        ["docs:3.md", "docs:1.md"],
    )


def test_a_source_says_what_waits_and_what_is_not_searchable_yet(index: Index) -> None:
    """Its row is written by a scan and at the end of a run: for the time between it said what had been."""

    def said() -> str:
        with index.open() as pipeline, pipeline.stores.database.connection() as connection:
            (row,) = sources.list_sources(connection)
            counts = sources.documents_now(connection)
        return _documents({**row, **counts["filesystem", "docs"]})

    for number in range(3):
        index.write(f"{number}.md", f"# {number}\n\n本文。\n", "2024-03-05")
    index.write("empty.md", "", "2024-03-05")
    assert scan(index)
    assert said() == "0 of 4 ingested, 4 waiting, 0 quarantined"
    with index.open() as pipeline:
        ingest_documents(pipeline, MARCH)
        assert said() == "3 ingested, 3 not searchable yet, 1 quarantined"
        chunk_documents(pipeline, MARCH)
    assert said() == "3 ingested, 3 not searchable yet, 1 quarantined"
    index.ingest()
    assert said() == "3 ingested, 1 quarantined"
    index.write("1.md", "# 1\n\n別の本文。\n", "2024-03-05")
    index.write("3.md", "# 3\n\n本文。\n", "2024-03-05")
    index.delete("0.md")
    assert scan(index)
    assert said() == "1 of 4 ingested, 2 waiting, 1 quarantined"
    index.ingest()
    assert said() == "3 ingested, 1 quarantined"
    assert _documents({"successful_documents": 0, "waiting_documents": 20000}) == (
        "0 of 20,000 ingested, 20,000 waiting, 0 quarantined"
    )
    assert _documents({}) == "0 ingested, 0 quarantined"


NAMES = (
    "a.md",
    "a/b.md",
    "a b.md",
    "a-/b.md",
    "A.md",
    "ａ.md",
    "あ/い.md",
    "あ.md",
    "é.md",
    "z.md",
    "𠮷/𠮷.md",
    "\uffee.md",
)
DEEP = "/".join(["長" * 80] * 14) + "/x.md"
"""A path of 3,400 bytes: more than PostgreSQL's limit for a row of an index."""


def test_scans_in_slices_know_what_is_there(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(5)
    names = [*NAMES, DEEP, *(f"{folder}/{n}.md" for folder in ("a", "あ", "b") for n in range(4))]
    there: set[str] = set()
    for _ in range(25):
        monkeypatch.setattr("rag_pipeline.indexing.scan._SLICE", choose.choice([1, 2, 3, 7]))
        for name in choose.sample(names, choose.randrange(8)):
            if name in there:
                index.delete(name)
            else:
                index.write(name, "# x\n\n本文。\n")
            there ^= {name}
        while not scan(index, deadline=choose.choice([None, 0])):
            pass
        kept = index.rows("SELECT locator FROM source_items WHERE state <> 'gone'")
        assert {locator for (locator,) in kept} == there
    index.ingest(confirm_deletions=True)
    assert {locator for (locator,) in index.rows("SELECT locator FROM source_items")} == there
    index.assert_consistent()


class SlowSource:
    """A clock that stands still but for the second that it takes to read a new document."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.read: list[str] = []
        self.own_date = module._own_date
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        monkeypatch.setattr(module, "_own_date", self._read)

    def _read(self, pipeline: Pipeline, source: Source, item: Item) -> datetime | None:
        self.seconds += 1
        self.read.append(item.locator)
        return self.own_date(pipeline, source, item)


def test_a_scan_that_reads_slowly_ends_at_its_deadline_and_loses_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        index.write(f"{number}.md", "# x\n\n本文。\n")
        index.write(f"{number}.csv", "x")
    index.ingest()
    index.delete("3.md")
    new = [f"{number}{letter}.md" for number in range(8) for letter in "abc"]
    for name in new:
        index.write(name, "# x\n\n本文。\n")
    there = {path.name for path in index.docs.glob("*.md")}
    slow = SlowSource(monkeypatch)
    scanned, not_included, scans = 0, 0, 0
    with index.open(parse_workers=1) as pipeline:
        while True:
            began = slow.seconds
            result = scan_source(pipeline, pipeline.source("docs"), deadline=began + 7)
            assert slow.seconds - began <= 8, "the time, and the document that was being read"
            scans += 1
            scanned += result.scanned
            not_included += result.not_included.get(".csv", 0)
            if result.complete:
                break
            # Also what was read before the last slice: a scan that is killed does not begin anew.
            assert index.rows("SELECT count(*) FROM source_items WHERE state = 'gone'") == [(0,)]
    assert (slow.read, scans) == (new, 4), "each once, in order"
    assert (scanned, not_included, result.gone) == (len(there), 8, 1)
    kept = index.rows("SELECT locator FROM source_items WHERE state <> 'gone'")
    assert {locator for (locator,) in kept} == there


def test_a_killed_scan_that_reads_slowly_loses_seconds(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:02}.md" for number in range(20)]
    for name in names:
        index.write(name, "# x\n\n本文。\n")
    slow = SlowSource(monkeypatch)
    read = slow.own_date

    def killed(pipeline: Pipeline, source: Source, item: Item) -> datetime | None:
        if item.locator == names[15]:
            raise KeyboardInterrupt
        return read(pipeline, source, item)

    with monkeypatch.context() as patch, index.open(parse_workers=1) as pipeline:
        patch.setattr(slow, "own_date", killed)
        with pytest.raises(KeyboardInterrupt):
            scan_source(pipeline, pipeline.source("docs"))
    assert scan(index)
    again = [name for name in names[:15] if slow.read.count(name) > 1]
    assert again == names[12:15], "the slice of 12 to 17 was lost"
    assert index.rows("SELECT count(*) FROM source_items") == [(20,)]


def test_what_cannot_be_listed_is_not_missed(index: Index) -> None:
    for name in ("a/1.md", "a/2.md", "b/1.md"):
        index.write(name, "# x\n\n本文。\n")
    index.ingest()
    [(source, number)] = index.rows("SELECT source, pass FROM source_scans")
    later = source_items.Pass("filesystem", source, number + 1, "recipe")
    with index.open() as pipeline, pipeline.stores.database.connection() as connection:
        source_items.mark_missed(connection, later, source_items.Slice([], "", "a/", ["a/"]), 9)
        source_items.mark_missed(connection, later, source_items.Slice([], "a/", "a0", ["a/"]), 9)
        sources.advance_pass(connection, source, "a0", ["a: no permission"], ["a/"])
        source_items.mark_missed(connection, later, source_items.Slice([], ""), 9)
    assert index.rows("SELECT locator FROM source_items WHERE missed_pass IS NOT NULL") == [("b/1.md",)]


def test_an_item_that_comes_back_while_a_killed_scan_is_resumed_is_kept(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.write("a/a.md", "# a\n\n本文。\n")
    index.write("b.md", "# b\n\n本文。\n")
    index.ingest()
    # A folder: a file that is moved itself has another fingerprint.
    away = (index.docs / "a").rename(index.docs.with_name("away"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(source_items, "merge", killed)  # when the slice has been marked
        scan(index)
    assert index.rows("SELECT source_id FROM source_items WHERE missed_pass IS NOT NULL") == [("docs:a/a.md",)]
    away.rename(index.docs / "a")
    assert scan(index)
    assert index.rows("SELECT source_id, state FROM source_items ORDER BY 1") == [
        ("docs:a/a.md", "ingested"),
        ("docs:b.md", "ingested"),
    ]


def test_the_end_of_a_scan_waits_for_no_other_source(index: Index) -> None:
    several_sources(index, "ab", 3)
    with index.open() as pipeline:
        for name in "ab":
            scan_source(pipeline, pipeline.source(name))
        index.rows("UPDATE sources SET total_documents = 0")
        ids = [row[0] for row in index.rows("SELECT id FROM sources ORDER BY name")]
        with pipeline.stores.database.connection() as first, pipeline.stores.database.connection() as second:
            second.execute("SET LOCAL lock_timeout = '1s'")
            sources.finish_pass(first, ids[0], None, 0)
            sources.finish_pass(second, ids[1], None, 0)
    assert index.rows(STATISTICS) == [("a", 3, 0, 0), ("b", 3, 0, 0)]


def test_scans_of_four_sources_at_once_and_a_run_of_their_month(index: Index) -> None:
    names = "abcd"
    several_sources(index, names, 30)
    index.ingest()
    for round_ in range(3):
        several_sources(index, names, 30 + round_ * 5)
        start = threading.Barrier(len(names) + 1)

        def scan(name: str, start: threading.Barrier = start) -> bool:
            with index.open() as pipeline:
                config = pipeline.source(name)
                start.wait()
                return scan_source(pipeline, config).complete  # ingest scans it too

        def run(start: threading.Barrier = start) -> list[str]:
            start.wait()
            return index.ingest().errors

        with ThreadPoolExecutor(len(names) + 1) as pool:
            ingested = pool.submit(run)
            assert all(pool.map(scan, names))
            assert ingested.result() == []
    assert index.ingest().errors == []
    assert index.rows(STATISTICS) == [(name, 40, 40, 0) for name in names]


def test_a_scan_and_a_run_that_change_the_same_items_do_not_deadlock(index: Index) -> None:
    """The scan lists the items in another order than the run stores them."""
    several_sources(index, "a", 2)
    with index.open() as pipeline:
        scan_source(pipeline, pipeline.source("a"))
        database = pipeline.stores.database
        with database.connection() as connection:
            first, second = source_items.pending(connection, MARCH, 10)
        [(source,)] = index.rows("SELECT id FROM sources")
        listed = [item for item in connect(pipeline.source("a")).scan(after=None) if isinstance(item, Item)]

        def merge() -> None:
            with database.connection() as connection:
                seen = source_items.Pass("filesystem", source, 2, "recipe")
                source_items.merge(connection, seen, [(item, MARCH.start) for item in reversed(listed)])

        with ThreadPoolExecutor(1) as pool:
            with database.connection() as connection:
                source_items.record(connection, [source_items.Outcome(first, "0" * 64)])
                merged = pool.submit(merge)
                wait_for_blocked_session(index.endpoints.postgres_url)
                source_items.record(connection, [source_items.Outcome(second, "0" * 64)])
            merged.result()
