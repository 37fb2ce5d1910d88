"""Months that are too old leave both stores, whatever interrupts it, and come back where they are to be kept again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.indexing import retention
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.retention import apply_retention, months_to_expire, oldest_kept_month, retention_due
from rag_pipeline.months import Month
from rag_pipeline_tests.support.index import Index, sections

KINDS = ("dense", "sparse", "multi")
NOW = Month(2024, 6)
OLD, KEPT = Month(2024, 1), Month(2024, 5)
TEXT = sections("一", "二", "三") + "\n{}\n"


def ingested(index: Index) -> None:
    """A document in an old month, two in one that is kept; each with sections, so that chunks have parents."""
    index.write("old.md", TEXT.format("古い。"), "2024-01-10")
    index.write("kept.md", TEXT.format("新しい。"), "2024-05-10")
    index.write("last.md", TEXT.format("最後。"), "2024-05-31T23:59:59Z")
    index.ingest()


def expire(index: Index, months: int | None = 4) -> retention.RetentionResult:
    with index.open(retention_months=months) as pipeline:
        return apply_retention(pipeline, NOW)


def partitions(index: Index) -> set[str]:
    rows = index.rows("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
    return {name for (name,) in rows}


def milvus_months(index: Index) -> set[str]:
    with index.open() as pipeline, pipeline.stores.milvus.client() as client:
        return {
            name
            for generation in pipeline.collections.generations.values()
            for name in client.list_partitions(generation.name)
            if name.startswith("m_")
        }


def assert_expired(index: Index) -> None:
    index.assert_consistent()
    assert partitions(index) == {"documents_2024_05", "document_chunks_2024_05"}
    assert milvus_months(index) == {KEPT.milvus_partition}
    assert index.rows("SELECT source_id, state FROM source_items ORDER BY 1") == [
        ("docs:kept.md", "ingested"),
        ("docs:last.md", "ingested"),
        ("docs:old.md", "expired"),
    ]
    assert index.rows("SELECT DISTINCT month::text FROM term_statistics") == [("2024-05-01",)]
    assert index.rows("SELECT total_documents, successful_documents FROM sources") == [(3, 2)]
    assert index.rows("SELECT month FROM expiring_months") == []


def test_months_older_than_the_retention_have_expired(index: Index) -> None:
    assert oldest_kept_month(index.settings(retention_months=4), NOW) == Month(2024, 2)
    assert oldest_kept_month(index.settings(retention_months=6), NOW) == Month(2023, 12)
    assert oldest_kept_month(index.settings(), NOW) is None


def test_an_expired_month_leaves_both_stores_and_the_others_stay(index: Index) -> None:
    """With what waited in the outbox, and out of collections of another embedder."""
    ingested(index)
    assert index.rows("SELECT count(*) FROM document_chunks WHERE parent_chunk_id IS NOT NULL")[0][0] > 0
    index.rows(
        "DELETE FROM document_chunks WHERE document_created_at < '2024-02-01' AND position = 2 RETURNING id"
    )
    assert index.rows("SELECT count(*) FROM vector_deletions") == [(1,)]
    with index.open(retention_months=4) as pipeline, pipeline.stores.milvus.client() as client:
        other = f"{index.prefix}dense_0123456789ab"
        client.create_collection(other, dimension=4)
        client.create_partition(other, OLD.milvus_partition)
        assert months_to_expire(pipeline, NOW) == [OLD]
        assert retention_due(pipeline, NOW)
        result = apply_retention(pipeline, NOW)
        assert (result.expired, result.restored, result.busy) == ([OLD], 0, [])
        assert not retention_due(pipeline, NOW)
        assert not client.has_partition(other, OLD.milvus_partition)
    assert_expired(index)


STEPS: dict[str, tuple[object, str]] = {
    "items": (retention.expiring_months, "expire_items"),
    "documents": (retention.expiring_months, "delete_documents"),
    "partitions": (retention.expiring_months, "drop_partitions"),
    "milvus": (retention, "drop_partition"),
    "finish": (retention.expiring_months, "finish"),
}


def killed(patch: pytest.MonkeyPatch, module: object, name: str, after: bool) -> None:
    """From here on the step ends its process, before or after its work."""
    work: Callable[..., object] = getattr(module, name)

    def step(*arguments: object) -> object:
        if after:
            work(*arguments)
        raise KeyboardInterrupt

    patch.setattr(module, name, step)


def test_killed_at_every_step_it_ends_the_same(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested(index)
    for module, name in STEPS.values():
        for after in (False, True):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                killed(patch, module, name, after)
                expire(index)
            if (name, after) != ("finish", True):
                assert index.rows("SELECT count(*) FROM expiring_months") == [(1,)]
    expire(index)
    assert_expired(index)


@pytest.mark.parametrize("step", ["items", "partitions"])
def test_a_half_expired_month_that_is_kept_again_is_as_before(
    index: Index, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ingested(index)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed(patch, *STEPS[step], after=True)
        expire(index)
    back = index.ingest()
    assert back.months == [OLD]
    assert index.rows("SELECT count(*) FROM documents") == [(3,)]
    index.assert_consistent()


def test_with_milvus_down_the_month_is_finished_later_and_a_gone_item_is_forgotten(index: Index) -> None:
    ingested(index)
    good = index.endpoints
    index.endpoints = Endpoints(good.postgres_url, "http://127.0.0.1:9", good.redis_url)
    with pytest.raises(StoreUnavailableError):
        expire(index)
    assert index.rows("SELECT count(*) FROM documents") == [(2,)]
    index.endpoints = good
    assert expire(index).expired == [OLD]
    assert_expired(index)
    (index.docs / "old.md").unlink()
    index.ingest()
    assert index.rows("SELECT source_id FROM source_items ORDER BY 1") == [("docs:kept.md",), ("docs:last.md",)]


def test_old_documents_that_are_new_or_changed_are_not_ingested(index: Index) -> None:
    ingested(index)
    running = Month.now()
    age = (running.year - KEPT.year) * 12 + running.month - KEPT.month
    index.write("old.md", TEXT.format("変わった。"), "2024-01-10")
    index.write("older.md", TEXT.format("初めて。"), "2023-02-03")
    with index.open(retention_months=age) as pipeline:
        result = ingest(pipeline)
        assert result.months == []
        assert (result.stats.new, result.stats.changed, result.stats.embedded) == (0, 0, 0)
    states = "SELECT source_id, state FROM source_items WHERE document_created_at < '2024-05-01' ORDER BY 1"
    assert index.rows(states) == [("docs:old.md", "expired"), ("docs:older.md", "expired")]
    assert partitions(index) == {"documents_2024_05", "document_chunks_2024_05"}
    index.assert_consistent()

    with index.open(retention_months=age + 4) as pipeline:
        assert ingest(pipeline).months == [OLD], "one more month is kept, and the other is still too old"
    assert index.rows(states) == [("docs:old.md", "ingested"), ("docs:older.md", "expired")]
    assert index.rows("SELECT count(*) > 0 FROM document_chunks WHERE live AND content LIKE '%%変わった%%'") == [
        (True,)
    ]
    index.assert_consistent()


def test_a_month_that_is_running_is_left_for_the_next_call(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_LOCK_WAIT_SECONDS", 0)
    ingested(index)
    with index.open() as other, other.month_lock(OLD):
        result = expire(index)
    assert result.expired == []
    assert "2024-01" in result.busy[0]
    assert expire(index).expired == [OLD]


def test_a_reader_delays_the_expiry_and_not_the_other_readers(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_DROP_PAUSE_SECONDS", 0.1)
    ingested(index)
    with psycopg.connect(index.endpoints.postgres_url) as reader:
        reader.execute("SELECT count(*) FROM document_chunks")
        threading.Timer(1, reader.rollback).start()
        thread = threading.Thread(target=expire, args=(index,))
        thread.start()
        with psycopg.connect(index.endpoints.postgres_url, options="-c statement_timeout=2000") as second:
            for _ in range(20):
                second.execute("SELECT count(*) FROM document_chunks").fetchone()
                second.rollback()
        thread.join()
    assert_expired(index)
