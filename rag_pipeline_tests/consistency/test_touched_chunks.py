"""The checks at the end of a run look at what it changed, and at the whole month where that would not be enough."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import dagster as dg
import pytest

from rag_pipeline.consistency.checks import check_month
from rag_pipeline.indexing import touched_chunks
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.indexing.verify import verify
from rag_pipeline.stores.vector_ids import row_ids
from rag_pipeline_tests.consistency.test_defs import Jobs
from rag_pipeline_tests.consistency.test_statuses import (
    COUNT,
    MOVED,
    NOT_COMPLETED,
    NOTHING_FAILED,
    TERMS,
    UNFINISHED,
)
from rag_pipeline_tests.support.damaged_index import MARCH, DamagedIndex

COLLECTION_CHECKS = ("missing_vectors", "orphaned_vectors")
TABLE_CHECKS = (
    ("documents", "status_mismatches"),
    ("document_chunks", "status_mismatches"),
)
CHANGED = "documents changed: 1, chunks written: 1, deleted: 1"


@pytest.fixture
def jobs(damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("RAG_SOURCES", str(damaged.index.sources))
    return Jobs(damaged.index.open())


def edit(damaged: DamagedIndex) -> None:
    """Change one section of one document, and scan it."""
    page = damaged.index.docs / "march2.md"
    page.write_text(re.sub("## 第3節\n\n.*", f"## 第3節\n\n変更{uuid4()}。", page.read_text()))
    with damaged.index.open() as pipeline:
        scan_source(pipeline, pipeline.source("docs"))


def compared(evaluation: dg.AssetCheckEvaluation) -> object:
    return evaluation.metadata["compared"].value


def test_only_the_chunks_that_a_run_changed_are_compared(damaged: DamagedIndex) -> None:
    lost, other, *_ = map(UUID, damaged.chunks())
    gone = uuid4()
    with damaged.milvus() as client:
        for kind in ("dense", "multi"):
            (row,) = client.query(damaged.collection(kind), ids=row_ids(kind, other, 1), output_fields=["*"])
            (left,) = row_ids(kind, gone, 1)
            client.insert(damaged.collection(kind), [{**row, "id": left}], partition_name=MARCH.milvus_partition)
        for chunk in (lost, other):
            client.delete(damaged.collection("sparse"), ids=row_ids("sparse", chunk, 1))
    touched = TouchedChunks(MARCH)
    touched.add_written([lost])
    with damaged.index.open() as pipeline:
        found = check_month(pipeline, MARCH, names=COLLECTION_CHECKS, touched=touched)
        assert [(f.check, f.where, f.count) for f in found] == [("missing_vectors", "sparse_collection", 1)]
        touched.add_deleted([(gone, 1)])
        found = check_month(pipeline, MARCH, names=COLLECTION_CHECKS, touched=touched)
        assert sorted((f.check, f.where, f.count) for f in found) == [
            ("missing_vectors", "sparse_collection", 1),
            ("orphaned_vectors", "dense_collection", 1),
            ("orphaned_vectors", "multi_collection", 1),
        ]
        whole = check_month(pipeline, MARCH, names=COLLECTION_CHECKS)
        assert sorted((f.check, f.where, f.count) for f in whole) == [
            ("missing_vectors", "sparse_collection", 2),
            ("orphaned_vectors", "dense_collection", 1),
            ("orphaned_vectors", "multi_collection", 1),
        ]
        assert check_month(pipeline, MARCH, names=COLLECTION_CHECKS, touched=TouchedChunks(MARCH)) == []
    damaged.repaired()


def test_the_rows_of_a_month_are_compared_where_a_run_changed_them(damaged: DamagedIndex) -> None:
    changed, other = (
        damaged.index.rows(f"SELECT id FROM documents WHERE source_id = 'docs:{name}.md'")[0][0]
        for name in ("march0", "march1")
    )
    both = [changed, other]
    damaged.sql("UPDATE documents SET chunk_count = 99 WHERE id = ANY(%s)", both)
    damaged.sql("UPDATE document_chunks SET stored_position = 77 WHERE document_id = ANY(%s)", both)
    damaged.sql("UPDATE document_chunks SET live = false WHERE document_id = ANY(%s) AND position = 2", both)
    damaged.sql(
        "UPDATE document_chunks SET embedding_status = 'pending' WHERE document_id = ANY(%s) AND position = 3",
        both,
    )
    damaged.sql("UPDATE term_statistics SET chunks = 1 WHERE term = '' AND month = '2024-03-01'")
    with damaged.index.open() as pipeline:

        def found(*documents: UUID) -> dict[str, int]:
            touched = TouchedChunks(MARCH, documents=set(documents))
            findings = check_month(pipeline, MARCH, names=["status_mismatches"], touched=touched)
            return {finding.problem: finding.count for finding in findings}

        # What is unfinished is found in the whole month.
        assert found(changed) == {COUNT: 1, UNFINISHED: 1, MOVED: 1, NOT_COMPLETED: 2, TERMS: 1}
        assert found(changed, other) == {COUNT: 2, UNFINISHED: 2, MOVED: 2, NOT_COMPLETED: 2, TERMS: 1}
        assert found() == {NOT_COMPLETED: 2}
    damaged.repaired()


def test_what_is_fast_is_looked_for_in_the_whole_month(damaged: DamagedIndex) -> None:
    damaged.sql("UPDATE documents SET indexing_status = 'failed' WHERE source_id = 'docs:march0.md'")
    with damaged.index.open() as pipeline:
        [finding] = check_month(pipeline, MARCH, names=["status_mismatches"], touched=TouchedChunks(MARCH))
    assert (finding.problem, finding.count) == (NOTHING_FAILED, 1)
    damaged.repaired()


def test_a_run_compares_what_it_changed_once_the_month_is_known_to_be_right(
    damaged: DamagedIndex, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(damaged)
    _, evaluated = jobs.run("index_month")
    assert compared(evaluated["dense_collection", "missing_vectors"]) == "the whole month", "nothing was known yet"

    edit(damaged)
    jobs.run("index_month")
    edit(damaged)
    # the counts that the run took are not taken again
    monkeypatch.setattr("rag_pipeline.defs.month_checks.verify", None)
    result, evaluated = jobs.run("index_month")
    assert result.success
    for check in COLLECTION_CHECKS:
        found = evaluated["dense_collection", check]
        assert found.passed
        assert compared(found) == CHANGED
        assert found.description == f"no problems found in what this run changed ({CHANGED})"
    for key in TABLE_CHECKS:
        assert compared(evaluated[key]) == CHANGED, key
    monkeypatch.undo()
    _, evaluated = jobs.run("check_month")
    for key in (("dense_collection", "missing_vectors"), *TABLE_CHECKS):
        assert compared(evaluated[key]) == "the whole month", key
    damaged.repaired()


def test_a_run_does_not_close_what_it_did_not_look_at(damaged: DamagedIndex, jobs: Jobs) -> None:
    jobs.run("check_month")
    with damaged.milvus() as client:
        client.delete(damaged.collection("sparse"), ids=[f"{chunk}_sparse" for chunk in damaged.chunks()[:3]])
    _, evaluated = jobs.run("check_month")
    assert not evaluated["sparse_collection", "missing_vectors"].passed
    edit(damaged)
    _, evaluated = jobs.run("index_month")
    assert not evaluated["sparse_collection", "missing_vectors"].passed
    assert compared(evaluated["sparse_collection", "missing_vectors"]) == "the whole month"
    assert compared(evaluated["dense_collection", "missing_vectors"]) == CHANGED
    damaged.repaired()


def test_a_run_that_ended_without_its_checks_is_followed_by_all_of_them(
    damaged: DamagedIndex, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.run("check_month")
    edit(damaged)
    with monkeypatch.context() as patch:
        patch.setattr("rag_pipeline.defs.month_steps.verify", None)  # as if it were killed when all is written
        result, _ = jobs.run("index_month", incomplete=True)
        assert not result.success
    edit(damaged)
    _, evaluated = jobs.run("index_month")
    assert compared(evaluated["dense_collection", "missing_vectors"]) == "the whole month"
    edit(damaged)
    _, evaluated = jobs.run("index_month")
    assert compared(evaluated["dense_collection", "missing_vectors"]) == CHANGED
    damaged.repaired()


def test_vectors_that_a_run_wrote_and_nobody_finds_fail_it(damaged: DamagedIndex) -> None:
    written, other, *_ = map(UUID, damaged.chunks())
    with damaged.milvus() as client:
        for chunk in (written, other):  # their dates are wrong: no search of their month finds them
            (row,) = client.query(damaged.collection("dense"), ids=row_ids("dense", chunk, 1), output_fields=["*"])
            client.upsert(
                damaged.collection("dense"),
                [{**row, "created_timestamp": 0}],
                partition_name=MARCH.milvus_partition,
            )
    touched = TouchedChunks(MARCH)
    with damaged.index.open() as pipeline:
        (counts,) = verify(pipeline, MARCH, ["dense"], touched)
        assert (counts.equal, counts.looked_up) == (True, 0)
        touched.add_written([written])
        (counts,) = verify(pipeline, MARCH, ["dense"], touched)
        assert (counts.equal, counts.looked_up, counts.stored - counts.searchable) == (False, 1, 1)
        (counts,) = verify(pipeline, MARCH, ["dense"])
        assert (counts.equal, counts.looked_up, counts.stored - counts.searchable) == (False, None, 2)
        rows = {UUID(chunk): None for chunk in damaged.chunks()}
        assert pipeline.collections.searchable_among("dense", MARCH, [f"{c}_dense" for c in rows]) == len(rows) - 2
    damaged.sql("UPDATE document_chunks SET embedding_status = 'pending' WHERE id IN (%s, %s)", written, other)
    damaged.index.ingest()
    damaged.repaired()


def test_a_large_change_is_compared_as_the_whole_month(
    damaged: DamagedIndex, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.run("check_month")
    edit(damaged)
    monkeypatch.setattr(touched_chunks, "_MOST", 1)
    _, evaluated = jobs.run("index_month")
    assert compared(evaluated["dense_collection", "missing_vectors"]) == "the whole month"
    damaged.repaired()
