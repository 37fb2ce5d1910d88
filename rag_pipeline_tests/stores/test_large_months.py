"""What grows with a month or with the outbox: what reads a whole month may take longer, the rest reads what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pymilvus import MilvusClient

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.milvus import collections
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.postgres import consistency_queries, document_chunks, vector_deletions
from rag_pipeline.stores.postgres.database import Connection, Database, value
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.index import Index, sections
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores

MONTH, OTHER = Month(2024, 1), Month(2024, 2)


@pytest.fixture
def database(server_endpoints: Endpoints, prepared_database: str) -> Iterator[Database]:
    with temporary_database(server_endpoints.postgres_url, template=prepared_database) as url:
        database = Database(url, min_size=1, max_size=1)
        yield database
        database.close()


READS: dict[str, Callable[[Connection], object]] = {
    "counts": lambda connection: document_chunks.expected_vectors(connection, MONTH),
    "sizes": lambda connection: document_chunks.size_distribution(connection, MONTH),
    "checks": lambda connection: consistency_queries.orphaned_chunks(connection, MONTH),
}


@pytest.mark.parametrize("read", READS)
def test_what_reads_a_whole_month_may_take_longer_than_a_command(database: Database, read: str) -> None:
    with database.connection() as connection:
        READS[read](connection)
        assert value(connection, "SHOW statement_timeout") == "30min"
    with database.connection() as connection:
        assert value(connection, "SHOW statement_timeout") == "1min"


def test_the_outbox_is_read_as_far_as_it_is_asked_for(database: Database) -> None:
    ids = [UUID(int=n << 120) for n in range(1, 6)]
    with database.connection() as connection:
        for month, some in ((MONTH, [*ids[:4], ids[0]]), (OTHER, ids[4:])):
            connection.execute(
                "INSERT INTO vector_deletions (chunk_id, document_created_at, multi_vector_count) "
                "SELECT id, %s, number FROM unnest(%s::uuid[]) WITH ORDINALITY AS chunk(id, number)",
                (month.start, some),
            )
        among = [ids[1], ids[4], UUID(int=7)]
        assert consistency_queries.pending_deletions_among(connection, among) == {ids[1], ids[4]}
        within = [(None, None), (None, ids[2]), (ids[2], None), (ids[1], ids[3])]
        found = [consistency_queries.pending_deletions(connection, *bounds) for bounds in within]
        assert found == [set(ids), set(ids[:2]), set(ids[2:]), set(ids[1:3])]
        first = vector_deletions.of_month(connection, MONTH, 2)
        assert [(one.chunk_id, one.multi_vector_count) for one in first] == [(ids[0], 5), (ids[1], 2)]
        rest = vector_deletions.of_month(connection, MONTH, 10, first[-1].chunk_id)
        assert [one.chunk_id for one in rest] == ids[2:4]
        connection.execute("SET LOCAL enable_seqscan = off")
        for condition in ("chunk_id = ANY(ARRAY[gen_random_uuid()])", "chunk_id >= gen_random_uuid()"):
            plan = connection.execute(
                f"EXPLAIN SELECT chunk_id FROM vector_deletions WHERE {condition}"
            ).fetchall()  # type: ignore[arg-type]
            assert "idx_vector_deletions_chunk" in str(plan)


def test_milvus_counts_a_month_in_parts_that_may_take_longer_than_a_search(
    tmp_path: Path, prepared_stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month of 100,000 chunks takes Milvus Lite half a minute on a quiet machine, and longer beside a run."""
    index = Index(tmp_path, prepared_stores)
    index.write("all.md", sections(*"一二三四五六七八九十"), "2024-01-10")
    assert index.ingest().complete
    asked: list[tuple[int, float]] = []
    query = MilvusClient.query

    def recorded(client: MilvusClient, *arguments: Any, **options: Any) -> Any:
        rows = query(client, *arguments, **options)
        asked.append((len(rows), options["timeout"]))
        return rows

    monkeypatch.setattr(MilvusClient, "query", recorded)
    monkeypatch.setattr(collections, "_COUNTED_AT_ONCE", 4)
    with index.open() as pipeline:
        for kind in VECTOR_KINDS:
            stored = pipeline.collections.stored(kind, MONTH)
            asked.clear()
            assert pipeline.collections.searchable(kind, MONTH) == stored
            assert len(asked) == -(-stored // 4)
            assert sum(rows for rows, _ in asked) == stored
            assert all(seconds > TIMEOUT_SECONDS for _, seconds in asked)
        name = pipeline.collections.generations["sparse"].name
        with milvus_client(index.endpoints.milvus_uri) as client:
            (row, *_) = client.query(name, filter='id != ""', output_fields=["*"], timeout=TIMEOUT_SECONDS)
            moved = {**row, "created_timestamp": int(OTHER.start.timestamp())}
            client.upsert(name, [moved], partition_name=MONTH.milvus_partition)
        stored = pipeline.collections.stored("sparse", MONTH)
        assert pipeline.collections.searchable("sparse", MONTH) == stored - 1
