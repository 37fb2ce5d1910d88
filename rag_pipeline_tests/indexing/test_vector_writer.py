"""Saga: compensations in reverse, all of them, and the first error raised. A refused batch: who is to blame."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import pytest

from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.errors import LockLostError, StoreUnavailableError
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.vector_writer import Saga
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.postgres import document_chunks
from rag_pipeline.stores.postgres.advisory_locks import held
from rag_pipeline_tests.support.databases import end_idle_lock_sessions
from rag_pipeline_tests.support.index import Index, section, sections
from rag_pipeline_tests.support.milvus import refusing

UNFINISHED = "SELECT DISTINCT embedding_status FROM document_chunks"


def test_nothing_is_compensated_on_success() -> None:
    done: list[str] = []
    with Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
    assert done == []


def test_compensations_run_in_reverse_and_the_error_is_raised() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="first"), Saga("batch") as saga:
        for step in ("one", "two", "three"):
            saga.on_failure(f"undo {step}", lambda step=step: done.append(step))
        raise ValueError("first")
    assert done == ["three", "two", "one"]


def test_a_compensation_that_fails_is_logged_and_the_rest_run(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fails() -> None:
        raise OSError("the disk is on fire")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="first"), Saga("batch 7") as saga:
        saga.on_failure("undo one", lambda: done.append("one"))
        saga.on_failure("undo two", fails)
        saga.on_failure("undo three", lambda: done.append("three"))
        raise ValueError("first")
    assert done == ["three", "one"]
    assert "batch 7: could not undo two: the disk is on fire" in caplog.text


def test_a_run_that_lost_its_month_compensates_nothing() -> None:
    done: list[str] = []
    with pytest.raises(LockLostError), Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
        raise LockLostError("month 2024-01")
    assert done == []


def test_an_interrupt_is_compensated_too() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
        raise KeyboardInterrupt
    assert done == ["undo"]


REFUSALS = {
    "not ready": (1, "service not ready"),
    "memory limit": (3, "memory limit exceeded"),
    "quota": (9, "quota exceeded[reason=memory quota exhausted, please allocate more resources]"),
    "not loaded": (101, "collection not loaded"),
    "permission": (1401, "privilege not permitted"),
    "deadline": (10001, "context deadline exceeded"),
    "unknown": (65535, "unexpected error"),
}
TOO_LONG = (1100, "length of varchar field id exceeds max length")


def write_documents(index: Index, count: int = 6) -> None:
    for n in range(count):
        index.write(f"{n}.md", f"# 見出し{n}\n\n本文{n}。\n")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_of_the_whole_server_is_blamed_on_no_chunk(index: Index, refusal: str) -> None:
    write_documents(index)
    code, message = REFUSALS[refusal]
    with refusing(code, message) as refused, pytest.raises(StoreUnavailableError, match="Milvus at") as raised:
        index.ingest()
    assert "nothing was lost" in str(raised.value)
    assert len(refused) == 3, "one batch, once for each collection"
    assert index.rows(UNFINISHED) == [("pending",)]
    assert index.rows("SELECT count(*) FROM documents WHERE indexing_status = 'failed'") == [(0,)]
    result = index.ingest()
    assert (result.errors, result.stats.failed_chunks) == ([], 0)
    index.assert_consistent()


def test_only_the_chunk_whose_data_are_refused_fails(index: Index) -> None:
    write_documents(index)
    with index.open() as pipeline:
        pipeline.collections.ensure()
    seen: list[str] = []

    def is_of_the_first_chunk(key: str) -> bool:
        seen.append(key[:36])
        return key.startswith(seen[0])

    with refusing(*TOO_LONG, is_of_the_first_chunk):
        result = index.ingest()
    assert (result.errors, result.stats.failed_chunks) == ([], 1)
    ((chunk, error),) = index.rows(
        "SELECT id::text, embedding_error FROM document_chunks WHERE embedding_status = 'failed'"
    )
    assert chunk == seen[0]
    assert "exceeds max length" in error
    index.ingest(retry_failed=True)
    index.assert_consistent()


def test_data_that_lite_itself_refuses_fail_their_chunk(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(index)
    made = rows.make_rows
    first: list[object] = []

    def make_rows(kind: str, chunk: object, vectors: object, **more: object) -> list[rows.Row]:
        first.append(chunk.id)  # type: ignore[attr-defined]
        key = {"source_type": "x" * 51} if chunk.id == first[0] else {}  # type: ignore[attr-defined]
        return [{**row, **key} for row in made(kind, chunk, vectors, **more)]  # type: ignore[arg-type]

    monkeypatch.setattr(rows, "make_rows", make_rows)
    assert index.ingest().stats.failed_chunks == 1
    monkeypatch.undo()
    index.ingest(retry_failed=True)
    index.assert_consistent()


def test_data_that_are_refused_alike_for_every_chunk_are_blamed_on_none(index: Index) -> None:
    write_documents(index)
    with refusing(*TOO_LONG), pytest.raises(StoreUnavailableError, match="refused alike"):
        index.ingest()
    assert index.rows(UNFINISHED) == [("pending",)]
    index.ingest()
    index.assert_consistent()


@contextmanager
def watched_locks(index: Index, call: str) -> Iterator[list[tuple[str, bool]]]:
    """Yield the collections of the calls of a function of `rows`, each with whether its lock was held."""
    original, seen = getattr(rows, call), []
    with index.open() as other, pytest.MonkeyPatch.context() as patch:

        def watched(milvus: Milvus, collection: str, *arguments: object) -> None:
            lock = f"collection {collection}"
            with other.stores.database.connection() as connection:
                seen.append((collection, lock in held(connection, [lock])))
            original(milvus, collection, *arguments)

        patch.setattr(rows, call, watched)
        yield seen


def test_vectors_are_taken_back_under_the_lock_of_their_collection(index: Index) -> None:
    """Another batch is being written meanwhile, and Milvus Lite takes one writer to a collection at a time."""
    write_documents(index)
    with (
        watched_locks(index, "delete") as deleted,
        refusing(*TOO_LONG),
        pytest.raises(StoreUnavailableError, match="refused alike"),
    ):
        index.ingest()
    assert set(deleted) == {(name, True) for name in index.collections().values()}


def test_what_a_failed_run_completed_goes_live_even_if_the_next_cannot_embed(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.write("a.md", "# 見出し\n\n本文。\n")
    with monkeypatch.context() as patched:
        patched.setattr(document_chunks, "switch", lambda *_: [])
        index.ingest()
    live = "SELECT count(*) FROM document_chunks WHERE live"
    assert index.rows(live) == [(0,)]
    index.write("b.md", "# 別\n\n別の本文。\n")
    monkeypatch.setattr(index.embedder, "encode", _down)
    with pytest.raises(StoreUnavailableError, match="fails for every text"):
        index.ingest()
    assert index.rows(live) == [(1,)]


def _down(texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
    raise ConnectionError("the model's server does not answer")


@contextmanager
def refusing_postgres(index: Index, statement: str, undo: str) -> Iterator[None]:
    """Have PostgreSQL refuse to write ids: from the moment when the vectors are embedded."""
    encode = index.embedder.encode

    def refuse(texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        index.rows(statement)
        return encode(texts, kinds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index.embedder, "encode", refuse)
        yield
    index.rows(undo)


REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN
        IF NEW.dense_vector_id IS NOT NULL THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{}'; END IF;
        RETURN NEW;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuse BEFORE UPDATE ON document_chunks FOR EACH ROW EXECUTE FUNCTION refuse()"""


@pytest.mark.parametrize(
    "code", ["53100", "53200", "25006", "42501"], ids=["disk", "memory", "read only", "denied"]
)
def test_a_refusal_of_postgresql_is_blamed_on_no_chunk(index: Index, code: str) -> None:
    write_documents(index)
    with (
        refusing_postgres(index, REFUSE.format(code), "DROP FUNCTION refuse CASCADE"),
        pytest.raises(StoreUnavailableError, match=r"PostgreSQL at .*refused"),
    ):
        index.ingest()
    assert index.rows(UNFINISHED) == [("pending",)]
    assert {kind: index.vector_ids(kind) for kind in ("dense", "sparse", "multi")} == {
        "dense": set(),
        "sparse": set(),
        "multi": set(),
    }
    index.ingest()
    index.assert_consistent()


def test_an_embedder_that_fails_for_every_text_is_blamed_on_no_chunk(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(index, 20)
    calls: list[int] = []

    def fail(texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        calls.append(len(texts))
        raise ConnectionError("model server answered 429")

    monkeypatch.setattr(index.embedder, "encode", fail)
    with pytest.raises(StoreUnavailableError, match="fails for every text: model server answered 429"):
        index.ingest()
    assert calls == [16, 1], "a batch, and a harmless text"
    assert index.rows(UNFINISHED) == [("pending",)]
    monkeypatch.undo()
    index.ingest()
    index.assert_consistent()


def delete_by_hand(index: Index, name: str) -> None:
    """Delete a document as somebody with `psql` does, and have the sensor delete its vectors at once."""
    assert index.rows("DELETE FROM documents WHERE source_id = %s RETURNING id", f"docs:{name}")
    with index.open() as pipeline:
        drain_deletions(pipeline)


@pytest.mark.parametrize("step", ["encode", "count_tokens"], ids=["claimed", "not chunked yet"])
def test_a_document_deleted_during_a_run_leaves_no_vectors_and_comes_back(
    index: Index, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_documents(index)
    original = getattr(index.embedder, step)
    deleted: list[str] = []

    def delete_first(*arguments: object) -> object:
        if not deleted:
            deleted.append("3.md")
            delete_by_hand(index, "3.md")
        return original(*arguments)

    monkeypatch.setattr(index.embedder, step, delete_first)
    result = index.ingest()
    assert (result.errors, result.stats.failed_chunks) == ([], 0)
    assert index.rows("SELECT count(*) FROM documents") == [(5,)]
    index.assert_consistent()
    assert index.rows("SELECT source_id FROM source_items WHERE state = 'pending'") == [("docs:3.md",)]
    assert index.ingest().stats.documents == 1
    assert index.rows("SELECT count(*) FROM documents") == [(6,)]
    index.assert_consistent()


def move_chunks(index: Index) -> None:
    """Ingest a document, and give it a section before the others."""
    path = index.write("a.md", sections("前", "一", "二"))
    index.ingest()
    path.write_text(path.read_text("utf-8").replace("## 一", f"{section('零')}\n\n## 一"), "utf-8")


def test_moved_chunks_are_rewritten_under_the_lock_of_their_collection(index: Index) -> None:
    move_chunks(index)
    with watched_locks(index, "upsert") as written:
        assert index.ingest().stats.moved
    assert set(written) == {(name, True) for name in index.collections().values()}
    assert len(written) == 2 * len(set(written)), "what is new, and what has moved"


def test_a_run_that_lost_its_month_rewrites_no_moved_chunk(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has fetched is older than what the run that began meanwhile has written."""
    move_chunks(index)
    fetch, upsert = rows.fetch, rows.upsert
    written_later: list[str] = []

    def failover(*arguments: object) -> object:
        found = fetch(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(rows, "upsert", lambda _, collection, *__: written_later.append(collection))
        with index.open() as other:
            end_idle_lock_sessions(other.stores.database)
        return found

    monkeypatch.setattr(rows, "fetch", failover)
    with pytest.raises(LockLostError):
        index.ingest()
    assert written_later == []
    monkeypatch.setattr(rows, "fetch", fetch)
    monkeypatch.setattr(rows, "upsert", upsert)
    assert index.ingest().stats.moved
    index.assert_consistent()


@pytest.mark.parametrize(
    ("module", "name", "before"),
    [(rows, "fetch", False), (document_chunks, "multi_counts", True)],
    ids=["after its vectors are fetched", "before they are counted"],
)
def test_a_moved_chunk_that_is_deleted_meanwhile_leaves_no_vectors(
    index: Index, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, before: bool
) -> None:
    move_chunks(index)
    original = getattr(module, name)
    deleted: list[str] = []

    def call(*arguments: object) -> object:
        found = None if before else original(*arguments)
        if not deleted:
            deleted.append("a.md")
            delete_by_hand(index, "a.md")
        return original(*arguments) if before else found

    monkeypatch.setattr(module, name, call)
    index.ingest()
    assert deleted
    index.assert_consistent()


def test_what_was_deleted_by_hand_is_ingested_again(index: Index) -> None:
    write_documents(index)
    index.ingest()
    assert len(index.rows("DELETE FROM documents WHERE source_id <> 'docs:0.md' RETURNING id")) == 5
    result = index.ingest()
    assert result.stats.documents == 5
    index.assert_consistent()
    assert index.rows("SELECT count(*) FROM documents") == [(6,)]
