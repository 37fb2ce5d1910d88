"""Vectors that are lost or left behind: found by their check, and restored at no more cost than there has to be."""

from __future__ import annotations

import pytest
from pymilvus import MilvusClient

from rag_pipeline.months import Month
from rag_pipeline.stores.vector_ids import row_ids
from rag_pipeline_tests.consistency.conftest import APRIL, MARCH, Spoiled

KINDS = ("dense", "sparse", "multi")


def keys(chunk: str, kind: str) -> list[str]:
    return row_ids(kind, chunk, 4)


def lose(spoiled: Spoiled, client: MilvusClient, kind: str, chunks: list[str]) -> None:
    client.delete(spoiled.collection(kind), ids=[key for chunk in chunks for key in keys(chunk, kind)])


def test_a_true_index_has_no_findings(spoiled: Spoiled) -> None:
    found = spoiled.check()
    assert found.consistent
    assert found.findings == []
    assert spoiled.repaired().months == []


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_deleted_behind_its_back_are_found_and_restored_from_the_cache(
    spoiled: Spoiled, kind: str
) -> None:
    chunks = spoiled.chunks()[:20]
    with spoiled.milvus() as client:
        lose(spoiled, client, kind, chunks)
    (finding,) = spoiled.only("missing_vectors")
    assert (finding.where, finding.month, finding.count) == (f"{kind}_collection", MARCH, 20)
    assert {str(one["chunk_id"]) for one in finding.sample} == set(chunks)
    assert all(one["source_id"].startswith("docs:march") for one in finding.sample)
    assert "rag-pipeline repair --month 2024-03" in finding.what_to_do
    result = spoiled.repaired()
    assert (spoiled.embedded, result.embedded, result.reused) == (0, 0, 20)


def test_with_the_cache_emptied_only_what_is_lost_is_embedded(spoiled: Spoiled) -> None:
    first, second, third = spoiled.chunks()[:8], spoiled.chunks()[4:12], spoiled.chunks()[20:25]
    with spoiled.milvus() as client:
        for kind, lost in zip(KINDS, (first, second, third), strict=True):
            lose(spoiled, client, kind, lost)
    spoiled.empty_cache()
    counts = {finding.where: finding.count for finding in spoiled.only("missing_vectors")}
    assert counts == {"dense_collection": 8, "sparse_collection": 8, "multi_collection": 5}
    assert spoiled.repaired().embedded == spoiled.embedded == 17, "each chunk once, in one pass for all kinds"
    spoiled.warm_cache()


def test_one_of_several_multi_vectors_is_missed(spoiled: Spoiled) -> None:
    with spoiled.milvus() as client:
        client.delete(spoiled.collection("multi"), ids=[f"{spoiled.chunks()[0]}_multi_2"])
    (finding,) = spoiled.only("missing_vectors")
    assert finding.count == 1
    spoiled.repaired()


def test_while_a_vector_is_missed_its_chunk_is_still_live(spoiled: Spoiled) -> None:
    poisoned = (
        "SELECT id::text FROM document_chunks WHERE content LIKE '%%索引%%' AND document_created_at < %s LIMIT 1"
    )
    ((lost,),) = spoiled.index.rows(poisoned, MARCH.end)
    with spoiled.milvus() as client:
        lose(spoiled, client, "dense", [lost])
    spoiled.index.embedder.poison = "索引"
    spoiled.empty_cache()
    result = spoiled.repair()
    assert result.remaining.consistent
    (quarantined,) = result.remaining.findings
    assert quarantined.kind == "quarantined_documents", "it cannot be embedded any more: set aside, not wrong"
    assert spoiled.index.rows("SELECT live FROM document_chunks WHERE id = %s", lost) == [(True,)]
    spoiled.restore()


def test_vectors_without_a_chunk_are_deleted(spoiled: Spoiled) -> None:
    name, chunk = spoiled.collection("dense"), spoiled.chunks()[0]
    with spoiled.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        stray = [
            "00000000-0000-4000-8000-000000000000_dense",
            f"{chunk}_dense_2",
            f"{chunk}_sparse",
            "zzz",
            "!",
        ]
        client.upsert(name, [{**row, "id": key} for key in stray], partition_name=MARCH.milvus_partition)
    (finding,) = spoiled.only("orphaned_vectors")
    assert (finding.where, finding.month, finding.count) == ("dense_collection", MARCH, 5)
    assert {one["id"]: one["why"] for one in finding.sample} == {
        stray[0]: "no such chunk",
        **dict.fromkeys(stray[1:], "not a key of this collection"),
    }
    assert spoiled.repaired().deleted_vectors == 5
    assert spoiled.embedded == 0


def test_more_multi_vectors_than_their_chunk_has_are_orphaned(spoiled: Spoiled) -> None:
    name, chunk = spoiled.collection("multi"), spoiled.chunks()[0]
    with spoiled.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_multi_3"])
        client.upsert(name, [{**row, "id": f"{chunk}_multi_4"}], partition_name=MARCH.milvus_partition)
    (finding,) = spoiled.only("orphaned_vectors")
    assert finding.sample == [{"id": f"{chunk}_multi_4", "why": "its chunk has 4 vectors"}]
    spoiled.repaired()


@pytest.mark.parametrize("move", [False, True], ids=["there as well", "moved"])
def test_vectors_in_another_months_partition(spoiled: Spoiled, move: bool) -> None:
    name, chunk = spoiled.collection("dense"), spoiled.chunks(APRIL)[0]
    with spoiled.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        if move:
            client.delete(name, ids=[f"{chunk}_dense"])
            client.flush(name)  # Lite forgets a deletion that it has not flushed when the key comes back.
        client.upsert(name, [dict(row)], partition_name=MARCH.milvus_partition)
    found = spoiled.check()
    (orphan,) = found.orphaned_vectors
    assert (orphan.month, orphan.count) == (MARCH, 1)
    assert orphan.sample[0]["why"] == "in the wrong partition: its chunk is of 2024-04"
    if move:
        assert [finding.month for finding in found.missing_vectors] == [APRIL]
    assert spoiled.repair(MARCH).months == [MARCH, APRIL], "April lost its vector with March's"
    assert spoiled.embedded == 0
    assert spoiled.repaired().months == []


def test_a_partition_of_a_month_that_postgresql_does_not_have(spoiled: Spoiled) -> None:
    name, chunk, month = spoiled.collection("dense"), spoiled.chunks()[0], Month(2019, 5)
    with spoiled.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        client.create_partition(name, month.milvus_partition)
        stray = [{**row, "id": f"{n:08x}-0000-4000-8000-000000000000_dense"} for n in range(30)]
        client.upsert(name, stray, partition_name=month.milvus_partition)
    found = spoiled.check()
    (vectors,), (partition,) = found.orphaned_vectors, found.index_issues
    assert (vectors.month, vectors.count, len(vectors.sample)) == (month, 30, 20), (
        "an exact count, a capped sample"
    )
    assert (partition.month, partition.sample[0]["found"]) == (month, "m_2019_05")
    spoiled.repaired()


def test_what_waits_in_the_outbox_is_not_orphaned(spoiled: Spoiled) -> None:
    import psycopg

    with psycopg.connect(spoiled.index.endpoints.postgres_url) as connection:
        connection.execute("DELETE FROM source_items WHERE source_id = 'docs:march0.md'")
    waiting = spoiled.index.rows("SELECT count(*) FROM vector_deletions")
    assert waiting[0][0] > 0
    found = spoiled.check()
    assert found.orphaned_vectors == []
    spoiled.restore()


def test_a_lost_collection_is_made_anew(spoiled: Spoiled) -> None:
    name = spoiled.collection("sparse")
    with spoiled.milvus() as client:
        for alias in client.list_aliases(collection_name=name)["aliases"]:
            client.drop_alias(alias)
        client.drop_collection(name)
    found = spoiled.check()
    assert {finding.where for finding in found.findings} == {"sparse_collection"}
    assert sum(finding.count for finding in found.missing_vectors) == len(spoiled.chunks()) + len(
        spoiled.chunks(APRIL)
    )
    spoiled.repaired()
    assert spoiled.embedded == 0


def test_a_kind_that_is_not_built_is_not_missed(spoiled: Spoiled) -> None:
    from rag_pipeline.consistency.checker import DataConsistencyChecker

    with spoiled.milvus() as client:
        lose(spoiled, client, "sparse", spoiled.chunks())
    with spoiled.index.open(vectors="dense,multi") as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().findings == []
    spoiled.repaired()


def test_a_kind_that_is_built_from_now_on_is_filled_by_the_repair(spoiled: Spoiled) -> None:
    from rag_pipeline.consistency.repair import repair
    from rag_pipeline.indexing.ingest import ingest

    spoiled.index.write("may.md", "# 五月\n\n五月の本文。\n", "2024-05-01")
    with spoiled.index.open(vectors="dense") as pipeline:
        ingest(pipeline)
    with spoiled.index.open() as pipeline:
        assert repair(pipeline).remaining.findings == []
    spoiled.index.assert_true()
    spoiled.restore()
