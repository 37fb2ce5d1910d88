"""Contradictory rows in PostgreSQL are found and repaired, and then the check passes."""

from __future__ import annotations

import pytest

from rag_pipeline_tests.support.damaged_index import MARCH, DamagedIndex

COUNT = "documents whose chunk_count differs from the number of their chunks"
UNFINISHED = "completed documents with unfinished chunks"
MOVED = "completed documents whose vectors are stored with an old position or language"
NOTHING_FAILED = "failed documents without a failed chunk"
STUCK = "documents unfinished for over an hour, with no run in progress"
NO_DOCUMENT = "items marked ingested, without a document"
NO_IDS = "completed chunks without the ids of their vectors"
NOT_COMPLETED = "chunks with the ids of all their vectors that are not completed"
ABANDONED = "chunks in processing, with no run in progress"
SOURCE_OF_DOCUMENT = "documents with another source than their item"
SOURCE = "live chunks with another source than their document"
TERMS = "words whose term_statistics differ from the live chunks"

ITS = "document_id = (SELECT id FROM documents WHERE {doc})"
UNVECTORED = f"""UPDATE document_chunks SET embedding_status = 'processing', sparse_vector_id = NULL
    WHERE {ITS} AND position < 2"""

# Each statement damages its own document, the first of a list march0, the next march1 and so on, and leads to these
# findings: (table, problem, count).
Contradiction = tuple[str, list[tuple[str, str, int]]]
CONTRADICTIONS: dict[str, list[Contradiction]] = {
    "of documents": [
        ("UPDATE documents SET chunk_count = 99 WHERE {doc}", [("documents", COUNT, 1)]),
        ("UPDATE documents SET language = 'en' WHERE {doc}", [("documents", MOVED, 1)]),
        ("UPDATE documents SET indexing_status = 'failed' WHERE {doc}", [("documents", NOTHING_FAILED, 1)]),
        (
            "UPDATE documents SET processing_status = 'processing', indexing_status = 'pending', "
            "updated_at = now() - interval '2 hours' WHERE {doc}",
            [("documents", STUCK, 1)],
        ),
        (
            "UPDATE term_statistics SET chunks = chunks + 5 WHERE term = '' AND month = '2024-03-01'",
            [("document_chunks", TERMS, 1)],
        ),
    ],
    "of chunks": [
        (
            f"UPDATE document_chunks SET dense_vector_id = NULL, multi_vector_id = NULL WHERE {ITS}",
            [("document_chunks", NO_IDS, 6)],
        ),
        (
            f"UPDATE document_chunks SET embedding_status = 'pending' WHERE {ITS} AND position < 4",
            [("document_chunks", NOT_COMPLETED, 4)],
        ),
        (UNVECTORED, [("document_chunks", ABANDONED, 2)]),
        (f"UPDATE document_chunks SET stored_position = 77 WHERE {ITS}", [("documents", MOVED, 1)]),
        (
            f"""UPDATE document_chunks SET embedding_status = 'failed', multi_vector_id = NULL
                WHERE {ITS} AND position = 1""",
            [],
        ),
        # The documents of the second, third and fifth statement are unfinished too.
        (f"UPDATE document_chunks SET live = false WHERE {ITS} AND position < 3", [("documents", UNFINISHED, 4)]),
    ],
    "of sources": [
        (f"UPDATE document_chunks SET source = gen_random_uuid() WHERE {ITS}", []),
        (
            f"UPDATE document_chunks SET source = NULL WHERE {ITS} AND position < 2",
            [("document_chunks", SOURCE, 8)],
        ),
        ("UPDATE documents SET source = gen_random_uuid() WHERE {doc}", []),
        ("UPDATE documents SET source = NULL WHERE {doc}", [("documents", SOURCE_OF_DOCUMENT, 2)]),
    ],
    "of lost rows": [
        (f"DELETE FROM document_chunks WHERE {ITS} AND position = 5", [("documents", COUNT, 2)]),
        # Its document also has one chunk too few.
        (f"UPDATE document_chunks SET superseded = true WHERE {ITS} AND position = 2", []),
        ("DELETE FROM documents WHERE {doc}", [("documents", NO_DOCUMENT, 1)]),
    ],
}


@pytest.mark.parametrize("group", CONTRADICTIONS)
def test_contradictions_are_found_and_repaired(damaged: DamagedIndex, group: str) -> None:
    expected: list[tuple[str, str, int]] = []
    for number, (statement, problems) in enumerate(CONTRADICTIONS[group]):
        assert damaged.sql(statement.replace("{doc}", f"source_id = 'docs:march{number}.md'"))
        expected += problems
    found = damaged.check()
    assert not found.consistent
    mismatches = {(f.where, f.problem): f for f in found.status_mismatches}
    for where, problem, count in expected:
        finding = mismatches[where, problem]
        assert (finding.month, finding.count, len(finding.sample)) == (MARCH, count, count), problem
    damaged.repaired()
    assert damaged.embedded == 0, "no vectors were lost, or the cache has them"


def test_chunks_without_a_document_are_deleted_with_their_vectors(damaged: DamagedIndex) -> None:
    damaged.sql("DELETE FROM source_items WHERE source_id = 'docs:march0.md'")
    damaged.sql("DELETE FROM documents WHERE source_id = 'docs:march0.md'")
    damaged.index.docs.joinpath("march0.md").unlink()
    found = damaged.check()
    (finding,) = found.orphaned_chunks
    assert (finding.where, finding.month, finding.count) == ("document_chunks", MARCH, 6)
    assert {one["position"] for one in finding.sample} == set(range(6))
    damaged.repaired()
    assert len(damaged.chunks()) == 30
    damaged.restore()


def test_wrong_statistics_of_a_source_are_recounted(damaged: DamagedIndex) -> None:
    damaged.sql("UPDATE sources SET total_documents = 70, failed_documents = 2")
    (finding,) = damaged.only("status_mismatches")
    assert (finding.month, finding.count) == (None, 1)
    assert finding.sample[0] == {
        "source": "docs",
        "total_documents": 70,
        "items": 7,
        "successful_documents": 7,
        "ingested": 7,
        "failed_documents": 2,
        "failed": 0,
    }
    damaged.repaired()


def test_unfinished_work_of_a_running_run_is_not_a_contradiction(damaged: DamagedIndex) -> None:
    doc = "source_id = 'docs:march0.md'"
    damaged.sql(UNVECTORED.replace("{doc}", doc))
    damaged.sql(f"UPDATE documents SET indexing_status = 'indexing' WHERE {doc}")
    with damaged.index.open() as pipeline, pipeline.month_lock(MARCH):
        assert damaged.check().findings == []
    assert not damaged.check().consistent
    damaged.repaired()


def test_a_quarantined_document_is_a_warning_that_a_repair_leaves_alone(damaged: DamagedIndex) -> None:
    damaged.index.docs.joinpath("march1.md").write_bytes(b"\x00\x01\x02binary")
    damaged.index.ingest()
    found = damaged.check()
    assert found.consistent
    (finding,) = found.findings
    assert (finding.check, finding.month, finding.count) == ("quarantined_documents", MARCH, 1)
    assert finding.sample[0]["source_id"] == "docs:march1.md"
    assert finding.sample[0]["reason"]
    assert "--retry-failed" in finding.what_to_do
    result = damaged.repair()
    assert result.months == []
    assert [f.check for f in result.remaining.findings] == ["quarantined_documents"]
    damaged.restore()


def test_a_dry_run_changes_nothing(damaged: DamagedIndex) -> None:
    from rag_pipeline.consistency.repair import repair

    damaged.sql("UPDATE document_chunks SET dense_vector_id = NULL WHERE position = 1")
    damaged.sql("UPDATE documents SET chunk_count = 99 WHERE source_id = 'docs:march0.md'")
    before = (
        damaged.index.rows("SELECT * FROM documents ORDER BY id"),
        damaged.index.rows("SELECT * FROM document_chunks ORDER BY id"),
    )
    with damaged.index.open() as pipeline:
        result = repair(pipeline, dry_run=True)
    assert result.dry_run
    assert [finding.count for finding in result.found.status_mismatches] == [1, 6, 1], (
        "March: a count, and ids; April: an id"
    )
    assert all(
        "re-chunked" in f.what_to_do or "written back" in f.what_to_do for f in result.found.status_mismatches
    )
    assert before == (
        damaged.index.rows("SELECT * FROM documents ORDER BY id"),
        damaged.index.rows("SELECT * FROM document_chunks ORDER BY id"),
    )
    damaged.repaired()
