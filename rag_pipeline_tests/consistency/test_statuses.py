"""Rows of PostgreSQL that contradict each other or their documents: found, repaired, and the check passes."""

from __future__ import annotations

import pytest

from rag_pipeline_tests.support.damaged_index import MARCH, Spoiled

COUNT = "chunk_count is not the number of its chunks"
UNFINISHED = "completed, with chunks that are not"
MOVED = "completed, with chunks whose stored position or language is another"
NOTHING_FAILED = "failed, without a chunk that is"
STUCK = "unfinished for over an hour, and no run is at work"
NO_DOCUMENT = "items that say ingested, without a document"
NO_IDS = "completed, without the ids of their vectors"
NOT_COMPLETED = "with the ids of all their vectors, and not completed"
ABANDONED = "processing, and no run is at work"
TERMS = "term_statistics differ from the live chunks"

ITS = "document_id = (SELECT id FROM documents WHERE {doc})"
UNVECTORED = f"""UPDATE document_chunks SET embedding_status = 'processing', sparse_vector_id = NULL
    WHERE {ITS} AND position < 2"""

# Statement → what it leads to, (table, problem, count). Each is done to a document of its own; the first of a list
# to march0, the next to march1, and so on.
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
        # The two before it and the one before those are unfinished too.
        (f"UPDATE document_chunks SET live = false WHERE {ITS} AND position < 3", [("documents", UNFINISHED, 4)]),
    ],
    "of lost rows": [
        (f"DELETE FROM document_chunks WHERE {ITS} AND position = 5", [("documents", COUNT, 2)]),
        # Its document has one chunk too few as well.
        (f"UPDATE document_chunks SET retired = true WHERE {ITS} AND position = 2", []),
        ("DELETE FROM documents WHERE {doc}", [("documents", NO_DOCUMENT, 1)]),
    ],
}


@pytest.mark.parametrize("group", CONTRADICTIONS)
def test_contradictions_are_found_and_repaired(spoiled: Spoiled, group: str) -> None:
    expected: list[tuple[str, str, int]] = []
    for number, (statement, problems) in enumerate(CONTRADICTIONS[group]):
        assert spoiled.sql(statement.replace("{doc}", f"source_id = 'docs:march{number}.md'"))
        expected += problems
    found = spoiled.check()
    assert not found.consistent
    mismatches = {(f.where, f.problem): f for f in found.status_mismatches}
    for where, problem, count in expected:
        finding = mismatches[where, problem]
        assert (finding.month, finding.count, len(finding.sample)) == (MARCH, count, count), problem
    spoiled.repaired()
    assert spoiled.embedded == 0, "nothing lost its vectors, or the cache has them"


def test_chunks_without_a_document_leave_with_their_vectors(spoiled: Spoiled) -> None:
    spoiled.sql("DELETE FROM source_items WHERE source_id = 'docs:march0.md'")
    spoiled.sql("DELETE FROM documents WHERE source_id = 'docs:march0.md'")
    spoiled.index.docs.joinpath("march0.md").unlink()
    found = spoiled.check()
    (finding,) = found.orphaned_chunks
    assert (finding.where, finding.month, finding.count) == ("document_chunks", MARCH, 6)
    assert {one["position"] for one in finding.sample} == set(range(6))
    spoiled.repaired()
    assert len(spoiled.chunks()) == 30
    spoiled.restore()


def test_statistics_of_a_source(spoiled: Spoiled) -> None:
    spoiled.sql("UPDATE sources SET total_documents = 70, failed_documents = 2")
    (finding,) = spoiled.only("status_mismatches")
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
    spoiled.repaired()


def test_work_under_way_is_no_contradiction(spoiled: Spoiled) -> None:
    doc = "source_id = 'docs:march0.md'"
    spoiled.sql(UNVECTORED.replace("{doc}", doc))
    spoiled.sql(f"UPDATE documents SET indexing_status = 'indexing' WHERE {doc}")
    with spoiled.index.open() as pipeline, pipeline.month_lock(MARCH):
        assert spoiled.check().findings == []
    assert not spoiled.check().consistent
    spoiled.repaired()


def test_what_is_set_aside_is_a_warning_and_left_to_people(spoiled: Spoiled) -> None:
    spoiled.index.docs.joinpath("march1.md").write_bytes(b"\x00\x01\x02binary")
    spoiled.index.ingest()
    found = spoiled.check()
    assert found.consistent
    (finding,) = found.findings
    assert (finding.kind, finding.month, finding.count) == ("quarantined_documents", MARCH, 1)
    assert finding.sample[0]["source_id"] == "docs:march1.md"
    assert finding.sample[0]["reason"]
    assert "--retry-failed" in finding.what_to_do
    result = spoiled.repair()
    assert result.months == []
    assert [f.kind for f in result.remaining.findings] == ["quarantined_documents"]
    spoiled.restore()


def test_a_dry_run_changes_nothing(spoiled: Spoiled) -> None:
    from rag_pipeline.consistency.repair import repair

    spoiled.sql("UPDATE document_chunks SET dense_vector_id = NULL WHERE position = 1")
    spoiled.sql("UPDATE documents SET chunk_count = 99 WHERE source_id = 'docs:march0.md'")
    before = (
        spoiled.index.rows("SELECT * FROM documents ORDER BY id"),
        spoiled.index.rows("SELECT * FROM document_chunks ORDER BY id"),
    )
    with spoiled.index.open() as pipeline:
        result = repair(pipeline, dry_run=True)
    assert result.dry_run
    assert [finding.count for finding in result.found.status_mismatches] == [1, 6, 1], (
        "March: a count, and ids; April: an id"
    )
    assert all("anew" in f.what_to_do or "written back" in f.what_to_do for f in result.found.status_mismatches)
    assert before == (
        spoiled.index.rows("SELECT * FROM documents ORDER BY id"),
        spoiled.index.rows("SELECT * FROM document_chunks ORDER BY id"),
    )
    spoiled.repaired()
