"""The write path from files to vectors, on the real stores: what a user relies on."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest

from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.errors import DimensionMismatchError, LockLostError, SourceError
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.month_run import MonthRun, run_month
from rag_pipeline.indexing.run_selection import pending_work
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline_tests.support.databases import end_idle_lock_sessions
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.index import Index, section, sections

KINDS: tuple[VectorKind, ...] = ("dense", "sparse", "multi")
ACTIVE = "SELECT name, is_active FROM sources ORDER BY 1"


def paragraphs(count: int, seed: str = "") -> str:
    return (
        "# 見出し\n\n"
        + "\n\n".join(f"段落{seed}{n}。索引を正しく保つ方法を述べる。" * 3 for n in range(count))
        + "\n"
    )


def test_documents_become_three_verified_collections(index: Index) -> None:
    index.write("a.md", paragraphs(20), "2024-03-05")
    index.write("b.md", "# Hello\n\nAbout backups.\n", "2024-04-01T00:30:00+09:00")
    result = index.ingest()
    assert result.errors == []
    assert result.months == [Month(2024, 3)], "midnight in Tokyo is still March in UTC"
    assert result.stats.documents == 2
    assert result.stats.embedded == result.stats.chunks > 5
    index.assert_consistent()
    ids = index.rows("SELECT dense_vector_id, sparse_vector_id, multi_vector_id, id FROM document_chunks")
    assert all((d, s, m) == (f"{i}_dense", f"{i}_sparse", f"{i}_multi") for d, s, m, i in ids)
    assert all(kind_ids for kind_ids in (index.vector_ids(kind, Month(2024, 3)) for kind in KINDS))


def test_the_second_ingest_writes_nothing(index: Index) -> None:
    index.write("a.md", paragraphs(5))
    index.ingest()
    before = index.rows("SELECT id, updated_at FROM document_chunks ORDER BY id")
    asked = index.embedder.texts
    result = index.ingest()
    assert result.months == []
    assert (result.stats.scanned, result.stats.new, result.stats.changed) == (1, 0, 0)
    assert index.embedder.texts == asked
    assert index.rows("SELECT id, updated_at FROM document_chunks ORDER BY id") == before


def test_a_touched_file_is_read_and_nothing_else(index: Index) -> None:
    path = index.write("a.md", paragraphs(5))
    index.ingest()
    os.utime(path, ns=(1, 1))
    result = index.ingest()
    assert result.stats.changed == 1
    assert (result.stats.documents, result.stats.chunks, result.stats.embedded) == (0, 0, 0)
    result = index.ingest()
    assert result.months == []


def test_an_edit_that_keeps_size_and_time_is_found(index: Index) -> None:
    path = index.write("a.md", paragraphs(1, "甲"))
    index.write("b.md", paragraphs(1, "他"))
    index.ingest()
    before = path.stat()
    # An older program knew size and time only. Nothing is read because they are stored so, nor written twice.
    sizes_and_times = "UPDATE source_items SET {0}_fingerprint = regexp_replace({0}_fingerprint, '-[0-9]+$', '')"
    for column in ("seen", "ingested"):
        index.rows(sizes_and_times.format(column))
    stats = index.ingest().stats
    assert (stats.scanned, stats.changed, stats.documents) == (2, 0, 0)
    assert index.rows(
        "SELECT count(*) FROM source_items WHERE seen_fingerprint = ingested_fingerprint AND seen_fingerprint ~ '-.*-'"
    ) == [(2,)]
    written = index.rows("SELECT xmin::text FROM source_items ORDER BY source_id")
    index.ingest()
    assert index.rows("SELECT xmin::text FROM source_items ORDER BY source_id") == written

    index.write("a.md", paragraphs(1, "乙"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert index.ingest().stats.documents == 1
    assert index.rows("SELECT count(*) FROM documents WHERE content LIKE '%乙%'") == [(1,)]
    path.chmod(0o600)  # Its bytes are compared, and nothing is done.
    stats = index.ingest().stats
    assert (stats.changed, stats.documents, stats.embedded) == (1, 0, 0)
    index.assert_consistent()


def test_an_edit_costs_its_changed_chunks_only(index: Index) -> None:
    path = index.write("a.md", paragraphs(40))
    index.ingest()
    asked = index.embedder.texts
    path.write_text(path.read_text("utf-8").replace("段落20。", "段落XX。"), "utf-8")
    result = index.ingest()
    assert (result.stats.chunks, result.stats.superseded, result.stats.embedded) == (1, 1, 1)
    assert index.embedder.texts == asked + 1
    index.assert_consistent()


def test_chunks_that_only_moved_are_not_embedded_again_and_follow_in_milvus(index: Index) -> None:
    path = index.write("a.md", sections("前", "一", "二"))
    index.ingest()
    asked = index.embedder.texts
    path.write_text(path.read_text("utf-8").replace("## 一", f"{section('零')}\n\n## 一"), "utf-8")
    result = index.ingest()
    assert index.embedder.texts == asked + 1
    assert result.stats.moved == 2
    index.assert_consistent()
    positions = dict(index.rows("SELECT id::text, position FROM document_chunks"))
    with index.open() as opened:
        name = opened.collections.generations["dense"].name
        with opened.stores.milvus.client() as client:
            rows = client.query(name, filter="", limit=100, output_fields=["id", "chunk_position"])
    assert {row["id"].removesuffix("_dense"): row["chunk_position"] for row in rows} == positions


def test_reading_everything_again_mends_what_was_changed_by_hand_and_embeds_nothing_else(index: Index) -> None:
    index.write("a.md", paragraphs(20), "2024-03-05")
    index.write("b.md", paragraphs(5, "b"), "2024-04-05")
    index.ingest()
    of_chunks = (
        "SELECT position, content, content_hash FROM document_chunks ORDER BY document_created_at, position"
    )
    of_documents = "SELECT source_id, title, content, language FROM documents ORDER BY source_id"
    before = index.rows(of_chunks), index.rows(of_documents)
    (last,) = index.rows("SELECT max(position) FROM document_chunks WHERE document_created_at < '2024-04-01'")
    index.rows(
        "UPDATE documents SET content = 'nonsense', title = 'wrong' WHERE source_id = 'docs:a.md' RETURNING id"
    )
    changed = (
        "UPDATE document_chunks SET {} WHERE document_created_at < '2024-04-01' AND position = %s RETURNING id"
    )
    index.rows(changed.format("content = 'nonsense'"), 0)
    index.rows(changed.format("content_hash = repeat('0', 64)"), *last)
    assert index.ingest().months == []

    result = index.ingest(reread=True, only_months=[Month(2024, 3)])
    assert (result.months, result.stats.documents) == ([Month(2024, 3)], 1)
    assert (index.rows(of_chunks), index.rows(of_documents)) == before
    assert (result.stats.chunks, result.stats.superseded) == (2, 2)
    assert (result.stats.embedded, result.stats.reused) == (0, 2)
    index.assert_consistent()
    result = index.ingest(reread=True)
    assert (result.stats.documents, result.stats.chunks, result.stats.embedded) == (2, 0, 0)


def test_a_deleted_file_leaves_no_row_and_no_vector(index: Index) -> None:
    index.write("a.md", paragraphs(5, "a"))
    index.write("b.md", paragraphs(5, "b"))
    path = index.write("c.md", paragraphs(5, "c"))
    index.ingest()
    path.unlink()
    result = index.ingest()
    assert result.stats.deleted == 1
    assert result.stats.vectors_deleted > 0
    index.assert_consistent()
    assert index.rows("SELECT count(*) FROM source_items") == [(2,)]


def test_a_renamed_file_is_taken_from_the_cache(index: Index) -> None:
    index.write("a.md", paragraphs(5, "a"))
    path = index.write("b.md", paragraphs(5, "b"))
    index.ingest()
    asked = index.embedder.texts
    path.rename(path.with_name("renamed.md"))
    result = index.ingest()
    assert (result.stats.new, result.stats.deleted) == (1, 1)
    assert result.stats.embedded == 0
    assert result.stats.reused == result.stats.chunks > 0
    assert index.embedder.texts == asked
    index.assert_consistent()


def test_deleting_most_of_a_source_needs_a_confirmation(index: Index) -> None:
    paths = [index.write(f"{n}.md", paragraphs(1, str(n))) for n in range(4)]
    index.ingest()
    for path in paths[:3]:
        path.unlink()
    result = index.ingest()
    assert "3 of its 4 documents" in result.errors[0]
    assert result.errors[0].endswith(
        "nothing was deleted. If a disk or a share is not mounted there, mount it again; only if they are really gone, run "
        "`rag-pipeline ingest --source docs --confirm-deletions`"
    )
    assert index.rows("SELECT count(*) FROM documents") == [(4,)]
    assert index.rows("SELECT sync_status, last_error IS NOT NULL FROM sources") == [("failed", True)]
    result = index.ingest(confirm_deletions=True)
    assert result.errors == []
    assert result.stats.deleted == 3
    index.assert_consistent()


def test_a_missing_folder_deletes_nothing(index: Index) -> None:
    index.write("a.md", paragraphs(2))
    index.ingest()
    index.docs.rename(index.docs.with_name("elsewhere"))
    result = index.ingest()
    assert "source docs" in result.errors[0]
    assert "sources.yaml" in result.errors[0]
    assert index.rows("SELECT count(*) FROM documents") == [(1,)]


def test_a_document_that_cannot_be_read_is_quarantined_and_its_previous_version_stays(index: Index) -> None:
    path = index.write("a.md", paragraphs(3))
    good = path.read_bytes()
    index.write("b.md", paragraphs(3, "b"))
    index.ingest()
    path.write_bytes(b"\x00\x01\x02binary")
    result = index.ingest()
    assert result.stats.failed == 1
    assert index.rows("SELECT count(*) FROM document_chunks WHERE live")[0][0] > 2
    state = (
        "SELECT processing_status, indexing_status, error_message IS NOT NULL FROM documents ORDER BY source_id"
    )
    assert index.rows(state) == [("failed", "completed", True), ("completed", "completed", False)]
    result = index.ingest()
    assert result.months == [], "it is tried again when it changes, not at every run"
    result = index.ingest(retry_failed=True)
    assert result.stats.failed == 1
    path.write_bytes(good)
    result = index.ingest()
    assert result.stats.failed == 0
    index.assert_consistent()


def test_what_was_stored_is_chunked_even_if_newer_bytes_cannot_be_read(index: Index) -> None:
    path = index.write("a.md", "# 一\n\n最初の本文。\n")
    index.ingest()
    path = index.write("a.md", "# 一\n\n次の本文。\n")
    second = path.read_bytes()
    with index.open() as pipeline:  # A run that is killed before the chunks.
        scan_source(pipeline, pipeline.source("docs"))
        assert ingest_documents(pipeline, Month(2024, 3)).stored == 1
    path.write_bytes(b"\x00\x01\x02binary")
    assert index.ingest().stats.failed == 1
    live = "SELECT content FROM document_chunks WHERE live"
    assert index.rows(live) == [("# 一\n\n次の本文。",)]
    path.write_bytes(second)
    assert index.ingest().stats.failed == 0
    assert index.rows(live) == [("# 一\n\n次の本文。",)]
    index.assert_consistent()


def test_one_chunk_that_cannot_be_embedded_fails_alone(index: Index) -> None:
    index.embedder.poison = "毒"
    index.write("bad.md", paragraphs(20, "x") + "\n## 毒\n\n毒入り。\n")
    index.write("good.md", paragraphs(20, "y"))
    result = index.ingest()
    assert result.stats.failed_chunks == 1
    assert index.rows("SELECT count(*) FROM document_chunks WHERE embedding_status = 'failed'") == [(1,)]
    rows = index.rows("SELECT source_id, indexing_status, error_message FROM documents ORDER BY 1")
    assert rows[0][1] == "failed"
    assert "毒" in rows[0][2]
    assert rows[1][1:] == ("completed", None)
    index.embedder.poison = None
    result = index.ingest(retry_failed=True)
    assert (result.stats.embedded, result.stats.failed_chunks) == (1, 0)
    index.assert_consistent()


def test_a_failed_update_leaves_the_old_version_searchable(index: Index) -> None:
    path = index.write("a.md", "# 一\n\n古い本文。\n")
    index.ingest()
    index.embedder.poison = "毒"
    path.write_text(path.read_text("utf-8").replace("古い本文。", "毒の本文。"), "utf-8")
    index.ingest()
    assert index.rows("SELECT content FROM document_chunks WHERE live") == [("# 一\n\n古い本文。",)]
    path.write_text(path.read_text("utf-8").replace("毒の本文。", "良い本文。"), "utf-8")
    index.ingest()
    assert index.rows("SELECT content FROM document_chunks WHERE live") == [("# 一\n\n良い本文。",)]
    index.assert_consistent()


def test_a_file_that_is_removed_after_the_scan_waits_for_the_next_one(index: Index) -> None:
    old = index.write("old.md", "# 一\n\n古い本文。\n")
    index.ingest()
    old.write_text(old.read_text("utf-8").replace("古い", "新しい"), "utf-8")
    draft = index.write("draft.md", "# 草稿\n\n書きかけ。\n")

    def remove(*_: object) -> None:
        old.unlink()
        draft.unlink()

    result = index.ingest(on_scan=remove)
    assert (result.errors, result.stats.failed, result.stats.documents) == ([], 0, 0)
    assert index.rows("SELECT source_id, state FROM source_items ORDER BY 1") == [
        ("docs:draft.md", "pending"),
        ("docs:old.md", "pending"),
    ]
    assert index.rows("SELECT content FROM document_chunks WHERE live") == [("# 一\n\n古い本文。",)]
    assert index.ingest(confirm_deletions=True).stats.deleted == 2
    assert index.rows("SELECT count(*) FROM documents") == [(0,)]
    index.assert_consistent()


def test_new_metadata_in_sources_yaml_reaches_the_documents(index: Index) -> None:
    index.write("a.md", paragraphs(3))
    index.ingest()
    asked = index.embedder.texts
    index.sources.write_text(
        "sources: [{name: docs, type: filesystem, path: ./docs, category: manual, tags: [public]}]\n", "utf-8"
    )
    index.ingest()
    assert index.rows("SELECT category, tags FROM documents") == [("manual", ["public"])]
    assert index.embedder.texts == asked
    index.assert_consistent()


def test_another_chunk_size_rechunks_the_documents(index: Index) -> None:
    index.write("a.md", paragraphs(12))
    index.ingest()
    before = index.rows("SELECT count(*) FROM document_chunks")[0][0]
    with index.open(chunk_tokens=200) as pipeline:
        ingest(pipeline)
    assert index.rows("SELECT count(*) FROM document_chunks")[0][0] < before
    index.assert_consistent()


def test_a_document_that_was_quarantined_meanwhile_is_cut_by_the_chunker_of_today(index: Index) -> None:
    path = index.write("a.md", paragraphs(12))
    index.ingest()
    fine = path.read_bytes(), path.stat()
    path.unlink()
    path.symlink_to("nowhere")
    assert index.ingest().stats.failed == 1
    with index.open(chunk_tokens=200) as pipeline:
        ingest(pipeline)
        path.unlink()
        path.write_bytes(fine[0])
        os.utime(path, ns=(fine[1].st_atime_ns, fine[1].st_mtime_ns))
        assert ingest(pipeline).stats.documents == 0, "its bytes are those that were stored"
        assert index.rows("SELECT chunked_with FROM documents") == [(pipeline.generation.chunker,)]
    index.assert_consistent()


def test_a_killed_scan_resumes_where_it_stopped(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_pipeline.indexing.scan._SLICE", 3)
    for n in range(10):
        index.write(f"{n}.md", paragraphs(1, str(n)))
    with index.open() as pipeline:
        config = pipeline.sources["docs"]
        first = scan_source(pipeline, config, deadline=0)
        assert (first.complete, first.scanned) == (False, 3)
        seen = [first]
        while not seen[-1].complete:
            seen.append(scan_source(pipeline, config, deadline=0))
    assert sum(result.scanned for result in seen) == 10
    assert index.rows("SELECT count(*), count(missed_pass) FROM source_items") == [(10, 0)]


def test_another_dimension_is_rejected_before_anything_is_written(index: Index) -> None:
    index.write("a.md", paragraphs(3))
    index.ingest()
    before = {kind: index.vector_ids(kind) for kind in KINDS}
    index.embedder = CheapEmbedder(dimension=32)
    index.write("b.md", paragraphs(3, "b"))
    with pytest.raises(DimensionMismatchError, match="Vector dimension mismatch: expected 64, got 32"):
        index.ingest()
    index.embedder = CheapEmbedder()
    assert {kind: index.vector_ids(kind) for kind in KINDS} == before
    index.ingest()
    index.assert_consistent()


def test_a_month_that_fails_counts_the_steps_that_were_done(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.write("a.md", paragraphs(3))
    other = CheapEmbedder(dimension=32)
    monkeypatch.setattr(index.embedder, "encode", other.encode)
    result = index.ingest()
    assert result.errors == ["2024-03: Vector dimension mismatch: expected 64, got 32 (text 1 of 3)"]
    assert (result.stats.documents, result.stats.embedded) == (1, 0)
    assert result.stats.chunks > 0


def test_a_kind_that_is_not_built_is_not_missed(index: Index) -> None:
    index.write("a.md", paragraphs(3))
    with index.open(vectors="dense") as pipeline:
        ingest(pipeline)
    assert index.rows(
        "SELECT DISTINCT embedding_status, sparse_vector_id, multi_vector_id FROM document_chunks"
    ) == [("completed", None, None)]


def test_a_kind_that_is_added_is_missing_until_the_next_ingest_builds_it(index: Index) -> None:
    months = [Month(2024, 3), Month(2024, 4)]
    for month in months:
        index.write(f"{month}.md", paragraphs(3, str(month)), f"{month}-05")
    with index.open(vectors="dense") as pipeline:
        ingest(pipeline)
    with index.open() as pipeline:
        for month in months:
            assert [counts.equal for counts in verify(pipeline, month, KINDS)] == [True, False, False]
    result = index.ingest()
    assert (result.errors, result.months) == ([], months)
    index.assert_consistent()
    assert index.ingest().months == []


def test_a_kind_is_added_beside_an_edit_whatever_the_batches(index: Index) -> None:
    """Until its version is live, a chunk that stays has the position of one that is new."""
    for name in ("a", "b"):
        index.write(f"{name}.md", paragraphs(4, name))
    with index.open(vectors="dense,sparse", batch_size=1) as pipeline:
        ingest(pipeline)
    for name in ("a", "b"):
        index.write(f"{name}.md", f"{paragraphs(1, 'first')}\n\n{paragraphs(4, name)}")
    with index.open(batch_size=1) as pipeline:
        assert ingest(pipeline).errors == []
    index.assert_consistent()


def test_a_kind_that_is_built_again_is_filled_where_it_was_left_out(index: Index) -> None:
    index.write("a.md", paragraphs(3, "a"))
    index.ingest()
    index.write("b.md", paragraphs(3, "b"))
    with index.open(vectors="dense,multi") as pipeline:
        ingest(pipeline)
    with index.open() as pipeline:
        assert list(pending_work(pipeline)) == [Month(2024, 3)], "what the sensor runs"
        run_month(pipeline, Month(2024, 3), MonthRun())
        assert pending_work(pipeline) == {}
    index.assert_consistent()


def test_without_redis_it_is_slower_and_not_wrong(index: Index, tmp_path: Path) -> None:
    from rag_pipeline.endpoints import Endpoints

    good = index.endpoints
    index.endpoints = Endpoints(good.postgres_url, good.milvus_uri, "redis://127.0.0.1:9/0")
    index.write("a.md", paragraphs(10))
    result = index.ingest()
    assert result.errors == []
    assert result.stats.embedded > 0
    index.assert_consistent()


def test_an_unlisted_source_keeps_its_documents_until_it_is_removed(index: Index) -> None:
    index.write("a.md", paragraphs(2))
    index.ingest()
    index.sources.write_text("sources: [{name: other, type: filesystem, path: ./docs}]\n", "utf-8")
    result = index.ingest()
    assert result.unconfigured == ["docs"]
    assert index.rows("SELECT count(*) FROM documents") == [(2,)]
    assert index.rows(ACTIVE) == [("docs", False), ("other", True)]
    # An entry with a mistake is that of its name, and of no other source; one without a name can be anybody's.
    for entries, unconfigured in (("{name: other, type: file}, 7", []), ("{name: docs, pth: x}", ["other"])):
        index.sources.write_text(f"sources: [{entries}]\n", "utf-8")
        assert index.ingest().unconfigured == unconfigured
    assert index.rows(ACTIVE) == [("docs", False), ("other", False)]
    index.assert_consistent()


def test_a_run_that_lost_its_month_writes_nothing_more(index: Index) -> None:
    path = index.write("a.md", paragraphs(40, "甲"))

    class Interrupted(CheapEmbedder):
        """Loses the month while it embeds, and another run of it comes and goes."""

        def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
            if not self.calls:
                with Pipeline(index.settings(), index.endpoints, embedder=CheapEmbedder()) as other:
                    end_idle_lock_sessions(other.stores.database)
                    path.write_text(paragraphs(40, "乙"), "utf-8")
                    assert ingest(other).errors == []
            return super().encode(texts, kinds)

    with (
        Pipeline(index.settings(), index.endpoints, embedder=Interrupted()) as pipeline,
        pytest.raises(LockLostError, match="2024-03"),
    ):
        pipeline.prepare()
        ingest(pipeline)
    index.assert_consistent()
    assert index.ingest().months == []
    assert index.rows("SELECT count(*) FROM document_chunks WHERE content LIKE '%%甲%%'") == [(0,)]


def test_a_link_to_outside_the_source_is_no_item_unless_it_follows_links(index: Index, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/passwords.txt").write_text("root hunter2\n", "utf-8")
    for name in "abc":
        index.write(f"{name}.md", paragraphs(1, name))
    (index.docs / "link.txt").symlink_to(tmp_path / "private/passwords.txt")
    (index.docs / "folder").symlink_to(tmp_path / "private")
    secrets = "SELECT source_id FROM documents WHERE content LIKE '%hunter2%' ORDER BY 1"
    result = index.ingest()
    assert (result.stats.documents, result.errors, result.warnings) == (3, [], [])
    assert result.not_included == {"docs": {"links to outside": 2}}
    assert index.rows(secrets) == []

    entry = "name: docs, type: filesystem, path: ./docs"
    index.sources.write_text(f"sources: [{{{entry}, follow_links: true}}]\n", "utf-8")
    assert index.ingest().stats.documents == 2
    assert index.rows(secrets) == [("docs:folder/passwords.txt",), ("docs:link.txt",)]
    index.sources.write_text(f"sources: [{{{entry}}}]\n", "utf-8")
    result = index.ingest()
    assert (result.stats.deleted, result.stats.failed, result.warnings) == (2, 0, [])
    assert index.rows(secrets) == []
    index.assert_consistent()


def test_a_file_system_that_quotes_its_options_puts_no_secret_anywhere(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Quoting(fsspec.AbstractFileSystem):
        protocol = "quoting"

        def info(self, path: str, **options: object) -> dict:
            raise RuntimeError(f"401 for {path} with {self.storage_options}")

    fsspec.register_implementation("quoting", Quoting, clobber=True)
    monkeypatch.setenv("TEST_TOKEN", "hunter2-token")
    index.sources.write_text(
        "sources: [{name: docs, type: filesystem, path: 'quoting://docs', storage_options: "
        "{headers: {Authorization: Bearer hunter2-literal}, auth: '${TEST_TOKEN}', X-Pin: 26112}}]",
        "utf-8",
    )
    with index.open() as pipeline, pytest.raises(SourceError) as raised:
        scan_source(pipeline, pipeline.source("docs"))
    assert index.ingest().errors == [str(raised.value)]
    stored = str(index.rows("SELECT connection_config, last_error FROM sources"))
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text
    for text in (str(raised.value), stored, shown):
        assert "401 for" in text
        assert not any(secret in text for secret in ("hunter2", "26112"))


def test_retry_failed_retries_the_failed_chunks_of_the_named_sources_only(index: Index, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    index.sources.write_text(
        "sources: [{name: docs, type: filesystem, path: ./docs}, {name: other-docs, type: filesystem, path: ./other}]",
        "utf-8",
    )
    index.write("a.md", "# A\n\npoison one\n")
    index.write("../other/b.md", "# B\n\npoison two\n")
    index.embedder.poison = "poison"
    assert index.ingest().stats.failed_chunks == 2
    index.embedder.poison = None
    result = index.ingest(only_sources=["other-docs"], retry_failed=True)
    assert result.stats.embedded == 1
    assert index.rows("SELECT source_id, indexing_status FROM documents ORDER BY 1") == [
        ("docs:a.md", "failed"),
        ("other-docs:b.md", "completed"),
    ]
    assert index.ingest(retry_failed=True).stats.embedded == 1
    index.assert_consistent()
