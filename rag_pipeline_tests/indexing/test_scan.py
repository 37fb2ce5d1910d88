"""What scans store, and scans of several sources, and runs of months, at the same time."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.sources import connect
from rag_pipeline.sources.interface import Item
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
