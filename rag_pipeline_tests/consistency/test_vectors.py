"""Missing and orphaned vectors are found by their checks, and repaired at the lowest possible cost."""

from __future__ import annotations

from typing import Any

import pytest
from pymilvus import MilvusClient

from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.settings import VectorKind
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.milvus.collections import Collections
from rag_pipeline.stores.vector_ids import row_ids
from rag_pipeline_tests.support.damaged_index import APRIL, MARCH, DamagedIndex
from rag_pipeline_tests.support.milvus import refusing

KINDS: tuple[VectorKind, ...] = ("dense", "sparse", "multi")


def keys(chunk: str, kind: VectorKind) -> list[str]:
    return row_ids(kind, chunk, 4)


def lose(damaged: DamagedIndex, client: MilvusClient, kind: VectorKind, chunks: list[str]) -> None:
    client.delete(damaged.collection(kind), ids=[key for chunk in chunks for key in keys(chunk, kind)])


def test_a_consistent_index_has_no_findings(damaged: DamagedIndex) -> None:
    found = damaged.check()
    assert found.consistent
    assert found.findings == []
    assert damaged.repaired().months == []


@pytest.mark.parametrize("kind", KINDS)
def test_deleted_vectors_are_found_and_restored_from_the_cache(damaged: DamagedIndex, kind: VectorKind) -> None:
    chunks = damaged.chunks()[:20]
    with damaged.milvus() as client:
        lose(damaged, client, kind, chunks)
    (finding,) = damaged.only("missing_vectors")
    assert (finding.where, finding.month, finding.count) == (f"{kind}_collection", MARCH, 20)
    assert {str(one["chunk_id"]) for one in finding.sample} == set(chunks)
    assert all(one["source_id"].startswith("docs:march") for one in finding.sample)
    assert "rag-pipeline repair --month 2024-03" in finding.what_to_do
    result = damaged.repaired()
    assert (damaged.embedded, result.embedded, result.reused) == (0, 0, 20)


def test_with_an_empty_cache_only_chunks_with_lost_vectors_are_embedded(damaged: DamagedIndex) -> None:
    first, second, third = damaged.chunks()[:8], damaged.chunks()[4:12], damaged.chunks()[20:25]
    with damaged.milvus() as client:
        for kind, lost in zip(KINDS, (first, second, third), strict=True):
            lose(damaged, client, kind, lost)
    damaged.empty_cache()
    counts = {finding.where: finding.count for finding in damaged.only("missing_vectors")}
    assert counts == {"dense_collection": 8, "sparse_collection": 8, "multi_collection": 5}
    assert damaged.repaired().embedded == damaged.embedded == 17, "each chunk once, in one pass for all kinds"
    damaged.warm_cache()


def test_a_single_lost_multi_vector_is_found(damaged: DamagedIndex) -> None:
    with damaged.milvus() as client:
        client.delete(damaged.collection("multi"), ids=[f"{damaged.chunks()[0]}_multi_2"])
    (finding,) = damaged.only("missing_vectors")
    assert finding.count == 1
    damaged.repaired()


def test_a_chunk_stays_live_while_its_vector_is_missing(damaged: DamagedIndex) -> None:
    poisoned = (
        "SELECT id::text FROM document_chunks WHERE content LIKE '%%索引%%' AND document_created_at < %s LIMIT 1"
    )
    ((lost,),) = damaged.index.rows(poisoned, MARCH.end)
    with damaged.milvus() as client:
        lose(damaged, client, "dense", [lost])
    damaged.index.embedder.poison = "索引"
    damaged.empty_cache()
    result = damaged.repair()
    assert result.remaining.consistent
    (quarantined,) = result.remaining.findings
    assert quarantined.check == "quarantined_documents", (
        "it can no longer be embedded: quarantined, not inconsistent"
    )
    assert damaged.index.rows("SELECT live FROM document_chunks WHERE id = %s", lost) == [(True,)]
    damaged.restore()


def test_a_refused_vector_leaves_the_others_of_its_chunk(damaged: DamagedIndex) -> None:
    (lost,) = damaged.chunks()[:1]
    with damaged.milvus() as client:
        lose(damaged, client, "dense", [lost])
    with refusing(1100, "row refused", lambda key: key.endswith("_dense")):
        found = damaged.repair().remaining
    assert [finding.check for finding in found.findings] == ["quarantined_documents"]
    assert damaged.index.rows("SELECT live, embedding_status FROM document_chunks WHERE id = %s", lost) == [
        (True, "failed")
    ]
    for kind in ("sparse", "multi"):
        assert damaged.index.vector_ids(kind).issuperset(keys(lost, kind))
    damaged.index.ingest(retry_failed=True)
    damaged.repaired()


@pytest.mark.parametrize("status", ["failed", "pending"])
def test_missing_vectors_of_a_chunk_that_is_not_completed_are_found(damaged: DamagedIndex, status: str) -> None:
    (lost,) = damaged.chunks()[:1]
    with damaged.milvus() as client:
        lose(damaged, client, "sparse", [lost])
    assert damaged.sql(
        f"UPDATE document_chunks SET embedding_status = '{status}', dense_vector_id = NULL WHERE id = %s", lost
    )
    (missing,) = damaged.check().missing_vectors
    assert (missing.where, missing.count, str(missing.sample[0]["chunk_id"])) == ("sparse_collection", 1, lost)
    damaged.repaired()


def test_a_key_that_looks_like_an_expression_deletes_nothing_else(damaged: DamagedIndex) -> None:
    """pymilvus does not escape the keys that it is given."""
    name = damaged.collection("dense")
    stray = ["somebody's", 'a"b\\', "x'] or id != '", 'x"] or id != "', "日本\n", "\x01\t\r"]
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{damaged.chunks()[0]}_dense"])
        client.upsert(name, [{**row, "id": key} for key in stray[:3]], partition_name=MARCH.milvus_partition)
        client.upsert(name, [{**row, "id": key} for key in stray[3:]])
    assert damaged.repaired().deleted_vectors == 6
    assert damaged.embedded == 0


def test_a_server_counts_what_is_searchable_in_the_partition_of_the_month_only(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    query = MilvusClient.query

    def watched(client: MilvusClient, *arguments: Any, **options: Any) -> Any:
        read.append(options["partition_names"])
        return query(client, *arguments, **options)

    monkeypatch.setattr(MilvusClient, "query", watched)
    monkeypatch.setattr(Milvus, "is_lite", False)
    with damaged.index.open() as pipeline:
        assert pipeline.collections.searchable("dense", MARCH) == len(damaged.chunks())
        assert pipeline.collections.searchable("dense", Month(1999, 1)) == 0
    assert read == [[MARCH.milvus_partition]]
    damaged.consistent = True


def test_vectors_without_a_chunk_are_deleted(damaged: DamagedIndex) -> None:
    name, chunk = damaged.collection("dense"), damaged.chunks()[0]
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        stray = [
            "00000000-0000-4000-8000-000000000000_dense",
            f"{chunk}_dense_2",
            f"{chunk}_sparse",
            "zzz",
            "!",
        ]
        client.upsert(name, [{**row, "id": key} for key in stray], partition_name=MARCH.milvus_partition)
    (finding,) = damaged.only("orphaned_vectors")
    assert (finding.where, finding.month, finding.count) == ("dense_collection", MARCH, 5)
    assert {one["id"]: one["why"] for one in finding.sample} == {
        stray[0]: "no such chunk",
        **dict.fromkeys(stray[1:], "not a key of this collection"),
    }
    assert damaged.repaired().deleted_vectors == 5
    assert damaged.embedded == 0


def test_more_multi_vectors_than_their_chunk_has_are_orphaned(damaged: DamagedIndex) -> None:
    name, chunk = damaged.collection("multi"), damaged.chunks()[0]
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_multi_3"])
        client.upsert(name, [{**row, "id": f"{chunk}_multi_4"}], partition_name=MARCH.milvus_partition)
    (finding,) = damaged.only("orphaned_vectors")
    assert finding.sample == [{"id": f"{chunk}_multi_4", "why": "its chunk has 4 vectors"}]
    damaged.repaired()


@pytest.mark.parametrize("move", [False, True], ids=["copied", "moved"])
def test_vectors_in_another_months_partition(damaged: DamagedIndex, move: bool) -> None:
    name, chunk = damaged.collection("dense"), damaged.chunks(APRIL)[0]
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        if move:
            client.delete(name, ids=[f"{chunk}_dense"])
            client.flush(name)  # Lite forgets an unflushed deletion when the key is written again.
        client.upsert(name, [dict(row)], partition_name=MARCH.milvus_partition)
    found = damaged.check()
    (orphan,) = found.orphaned_vectors
    assert (orphan.month, orphan.count) == (MARCH, 1)
    assert orphan.sample[0]["why"] == "in the wrong partition: its chunk is in 2024-04"
    if move:
        assert [finding.month for finding in found.missing_vectors] == [APRIL]
    assert damaged.repair(MARCH).months == [MARCH, APRIL], "April lost its vector when March's was deleted"
    assert damaged.embedded == 0
    assert damaged.repaired().months == []


def test_a_partition_of_a_month_without_a_partition_in_postgresql(damaged: DamagedIndex) -> None:
    name, chunk, month = damaged.collection("dense"), damaged.chunks()[0], Month(2019, 5)
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        client.create_partition(name, month.milvus_partition)
        stray = [{**row, "id": f"{n:08x}-0000-4000-8000-000000000000_dense"} for n in range(30)]
        client.upsert(name, stray, partition_name=month.milvus_partition)
    found = damaged.check()
    (vectors,), (partition,) = found.orphaned_vectors, found.index_issues
    assert (vectors.month, vectors.count, len(vectors.sample)) == (month, 30, 20), (
        "an exact count, a capped sample"
    )
    assert (partition.month, partition.sample[0]["found"]) == (month, "m_2019_05")
    damaged.repaired()


@pytest.mark.parametrize("partition", ["", "scratch", "m_2024_13"])
def test_vectors_in_a_partition_of_no_month(damaged: DamagedIndex, partition: str) -> None:
    name, chunk = damaged.collection("dense"), damaged.chunks()[0]
    stray = "00000000-0000-4000-8000-000000000000_dense"
    with damaged.milvus() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        if partition:
            client.create_partition(name, partition)
        client.insert(name, [{**row, "id": key} for key in (stray, f"{chunk}_dense")], partition_name=partition)
    (finding,) = damaged.only("orphaned_vectors")
    assert (finding.where, finding.month, finding.count) == ("dense_collection", None, 2)
    why = f"in partition {partition or '_default'}, of no month"
    assert {one["id"]: one["why"] for one in finding.sample} == {stray: why, f"{chunk}_dense": why}
    result = damaged.repaired()
    assert (result.deleted_vectors, result.months, damaged.embedded) == (2, [MARCH], 0)


def test_pending_deletions_are_not_orphaned(damaged: DamagedIndex) -> None:
    import psycopg

    with psycopg.connect(damaged.index.endpoints.postgres_url) as connection:
        connection.execute("DELETE FROM source_items WHERE source_id = 'docs:march0.md'")
    pending = damaged.index.rows("SELECT count(*) FROM vector_deletions")
    assert pending[0][0] > 0
    found = damaged.check()
    assert found.orphaned_vectors == []
    damaged.restore()


def delete_by_hand(damaged: DamagedIndex, chunk: str) -> None:
    """Delete a chunk as somebody with `psql` does: its vectors are in the outbox."""
    damaged.index.rows("DELETE FROM document_chunks WHERE id = %s", chunk)


def test_a_pending_deletion_is_no_difference_and_hides_none(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_pipeline.indexing.verify._DELETIONS_PER_LOOKUP", 1)
    *deleted, lost = damaged.chunks()[:3]
    for chunk in deleted:
        delete_by_hand(damaged, chunk)
    with damaged.index.open() as pipeline:
        for counts in verify(pipeline, MARCH, KINDS):
            assert counts.equal, str(counts)
            assert counts.pending_deletions == sum(len(keys(chunk, counts.kind)) for chunk in deleted)
        with damaged.milvus() as client:
            lose(damaged, client, "dense", [lost])
        assert [counts.equal for counts in verify(pipeline, MARCH, KINDS)] == [False, True, True]
        drain_deletions(pipeline)
        assert [counts.equal for counts in verify(pipeline, MARCH, KINDS)] == [False, True, True]
    damaged.repaired()


@pytest.mark.parametrize("moment", ["stored", "searchable"])
def test_an_outbox_drained_between_the_counts_is_no_difference(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    original = getattr(Collections, moment)
    drained: list[int] = []

    def count(*arguments: object) -> int:
        if not drained:
            with damaged.index.open() as other:
                drained.append(drain_deletions(other))
        return original(*arguments)

    monkeypatch.setattr(Collections, moment, count)
    delete_by_hand(damaged, damaged.chunks()[0])
    with damaged.index.open() as pipeline:
        (counts,) = verify(pipeline, MARCH, ["dense"])
    assert drained == [1]
    assert counts.equal, str(counts)
    damaged.repaired()


def test_a_lost_collection_is_recreated(damaged: DamagedIndex) -> None:
    name = damaged.collection("sparse")
    with damaged.milvus() as client:
        for alias in client.list_aliases(collection_name=name)["aliases"]:
            client.drop_alias(alias)
        client.drop_collection(name)
    found = damaged.check()
    assert {finding.where for finding in found.findings} == {"sparse_collection"}
    assert sum(finding.count for finding in found.missing_vectors) == len(damaged.chunks()) + len(
        damaged.chunks(APRIL)
    )
    damaged.repaired()
    assert damaged.embedded == 0


def test_vectors_of_a_kind_that_is_not_built_are_not_missing(damaged: DamagedIndex) -> None:
    from rag_pipeline.consistency.checker import DataConsistencyChecker

    with damaged.milvus() as client:
        lose(damaged, client, "sparse", damaged.chunks())
    with damaged.index.open(vectors="dense,multi") as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().findings == []
    damaged.repaired()


def test_a_repair_fills_a_kind_of_vectors_that_was_not_built_before(damaged: DamagedIndex) -> None:
    from rag_pipeline.consistency.repair import repair
    from rag_pipeline.indexing.ingest import ingest

    damaged.index.write("may.md", "# 五月\n\n五月の本文。\n", "2024-05-01")
    with damaged.index.open(vectors="dense") as pipeline:
        ingest(pipeline)
    with damaged.index.open() as pipeline:
        assert repair(pipeline).remaining.findings == []
    damaged.index.assert_consistent()
    damaged.restore()
