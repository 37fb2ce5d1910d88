"""Which months are run now."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.run_selection import RequestedRun, due_months, pending_work
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline_tests.support.index import Index

NOW = datetime(2024, 6, 1, tzinfo=UTC)
months = st.builds(Month, st.integers(2020, 2024), st.integers(1, 12))
work = st.dictionaries(months, st.sampled_from(["a", "b"]), max_size=20)
asked = st.dictionaries(
    months,
    st.builds(
        RequestedRun,
        st.sampled_from(["a", "b"]),
        st.integers(1, 5),
        st.sampled_from([NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)]),
    ),
)


@given(work, st.sets(months), asked, st.integers(0, 5))
def test_oldest_first_capped_and_never_twice_at_once(
    work: dict[Month, str], busy: set[Month], asked: dict[Month, RequestedRun], limit: int
) -> None:
    due, remembered = due_months(work, busy, asked, NOW, limit)
    assert due == sorted(due)
    assert len(due) <= limit
    assert set(due) <= set(work) - busy
    assert set(remembered) <= set(work)
    # Nothing is requested again at once: what was just asked for waits.
    again, _ = due_months(work, busy, remembered, NOW, limit)
    assert not set(again) & set(due)


def test_unchanged_work_is_requested_after_growing_pauses() -> None:
    month, now = Month(2024, 1), NOW
    remembered: dict[Month, RequestedRun] = {}
    pauses = []
    for _ in range(9):
        due, remembered = due_months({month: "same"}, (), remembered, now, 5)
        assert due == [month]
        pauses.append(remembered[month].again_at - now)
        now = remembered[month].again_at
    assert pauses[0] == timedelta(minutes=1)
    assert pauses[1] == timedelta(minutes=2)
    assert pauses[-1] == timedelta(hours=1)


def test_other_work_is_requested_at_once() -> None:
    month = Month(2024, 1)
    _, remembered = due_months({month: "one"}, (), {}, NOW, 5)
    due, _ = due_months({month: "two"}, (), remembered, NOW, 5)
    assert due == [month]


def test_what_failed_is_retried_after_growing_pauses(index: Index) -> None:
    """A document that cannot be read in one month, and one that cannot be embedded in another."""
    index.embedder.poison = "毒"
    (index.docs / "unread.md").write_bytes(b"\x00\x01\x02binary")
    index.write("poisoned.md", "# 毒\n\n毒入り。\n", "2024-02-03")
    pauses = []
    for _ in range(3):
        index.ingest()
        pauses += index.rows(
            "SELECT round(extract(epoch FROM retry_at - now()) / 86400) FROM source_items WHERE state = 'failed' "
            "UNION SELECT round(extract(epoch FROM retry_at - now()) / 86400) FROM documents "
            "WHERE indexing_status = 'failed'"
        )
        with index.open() as pipeline:
            assert pending_work(pipeline) == {}, "not before its time"
            with pipeline.stores.database.connection() as connection:
                connection.execute("UPDATE source_items SET retry_at = now() WHERE retry_at IS NOT NULL")
                connection.execute("UPDATE documents SET retry_at = now() WHERE retry_at IS NOT NULL")
            assert set(pending_work(pipeline)) == {Month(2024, 2), Month.now()}
    assert pauses == [(1,), (2,), (4,)]

    index.embedder.poison = None
    index.write("unread.md", "# 読める\n")
    index.ingest()
    index.assert_consistent()
    assert index.rows(
        "SELECT failures, retry_at FROM documents UNION SELECT failures, retry_at FROM source_items"
    ) == [(0, None)]


def test_months_with_work_are_those_of_pending_items_and_unfinished_documents(index: Index) -> None:
    dates = ("2020-12-31", "2021-01-01", "2021-01-31", "2023-06-15", "2024-02-29")
    for number, date in enumerate(dates):
        index.write(f"{number}.md", f"# {number}\n\n本文。\n", date)
    with index.open() as pipeline:
        assert pending_work(pipeline) == {}
        scan_source(pipeline, pipeline.source("docs"))
        expected = [Month(2020, 12), Month(2021, 1), Month(2023, 6), Month(2024, 2)]
        assert list(pending_work(pipeline)) == expected
        # Read and not yet chunked: no item is pending, but the month has work.
        ingest_documents(pipeline, Month(2023, 6))
        assert list(pending_work(pipeline)) == expected
    index.ingest()
    with index.open() as pipeline:
        assert pending_work(pipeline) == {}


def test_the_digest_of_work_changes_with_each_item_and_each_document(index: Index) -> None:
    seen = set()

    def digest() -> str:
        with index.open() as pipeline:
            scan_source(pipeline, pipeline.source("docs"))
            found = pending_work(pipeline)[Month(2024, 3)]
            assert pending_work(pipeline) == {Month(2024, 3): found}, "the same work"
        return found

    index.write("a.md", "# 一\n")
    seen.add(digest())
    index.write("b.md", "# 二\n")
    seen.add(digest())
    index.write("a.md", "# 一、書き直し\n")
    seen.add(digest())
    index.delete("b.md")
    index.write("c.md", "# 三\n")
    seen.add(digest())
    with index.open() as pipeline:
        ingest_documents(pipeline, Month(2024, 3))
    seen.add(digest())
    assert len(seen) == 5
