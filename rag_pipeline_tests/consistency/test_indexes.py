"""What is not as the schema or the collections' specification says: found, rebuilt, and the check passes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from rag_pipeline.stores.postgres.expected_schema import declared
from rag_pipeline_tests.support.damaged_index import MARCH, Spoiled

PARENT_INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_chunks_parent'::regclass"
PART_INVALID = """UPDATE pg_index SET indisvalid = false WHERE indexrelid = (
    SELECT inhrelid FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid
    WHERE inhparent = 'idx_documents_tags'::regclass AND indrelid = 'documents_2024_03'::regclass)"""

# Statements, the asset, whether it is of March or of the whole, and what the sample says of it.
SPOILED: list[tuple[list[str], str, bool, dict[str, str]]] = [
    (
        ["DROP INDEX idx_documents_status"],
        "documents",
        False,
        {"problem": "index missing", "table": "documents", "name": "idx_documents_status"},
    ),
    (
        ["DROP INDEX idx_sources_type"],
        "documents",
        False,
        {"problem": "index missing", "table": "sources", "name": "idx_sources_type"},
    ),
    (
        [
            "DROP INDEX idx_chunks_document",
            "CREATE INDEX idx_chunks_document ON document_chunks (document_id)",
        ],
        "document_chunks",
        False,
        {"problem": "index", "name": "idx_chunks_document", "found": "btree (document_id)"},
    ),
    (
        [PARENT_INVALID],
        "document_chunks",
        False,
        {"problem": "index invalid", "table": "document_chunks", "name": "idx_chunks_parent"},
    ),
    (
        [
            "DROP INDEX idx_documents_tags",
            "CREATE INDEX idx_documents_tags ON ONLY documents USING GIN (tags)",
            "CREATE INDEX part ON documents_2024_04 USING GIN (tags)",
            "ALTER INDEX idx_documents_tags ATTACH PARTITION part",
        ],
        "documents",
        True,
        {"problem": "index not attached", "table": "documents_2024_03", "name": "idx_documents_tags"},
    ),
    (
        [
            "CREATE INDEX left_behind ON document_chunks_2024_03 (char_count)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'left_behind'::regclass",
        ],
        "document_chunks",
        True,
        {"problem": "index left behind", "table": "document_chunks_2024_03", "name": "left_behind"},
    ),
    (
        ["DROP TRIGGER cleanup_document_vectors ON document_chunks"],
        "document_chunks",
        False,
        {"problem": "trigger missing", "table": "document_chunks", "name": "cleanup_document_vectors"},
    ),
    (
        ["ALTER TABLE document_chunks_2024_03 DISABLE TRIGGER cleanup_document_vectors"],
        "document_chunks",
        True,
        {"problem": "trigger disabled", "table": "document_chunks_2024_03"},
    ),
    (
        [PART_INVALID],
        "documents",
        True,
        {"problem": "index invalid", "table": "documents_2024_03"},
    ),
    (
        ["ALTER TABLE source_items DROP CONSTRAINT source_items_document_id_key"],
        "documents",
        False,
        {"problem": "constraint missing", "table": "source_items", "name": "source_items_document_id_key"},
    ),
    (
        ["ALTER TABLE source_items DROP CONSTRAINT source_items_document_key CASCADE"],
        "documents",
        False,
        {"problem": "constraint missing", "table": "documents", "name": "documents_source_item_fkey"},
    ),
    (
        ["DROP TEXT SEARCH CONFIGURATION japanese"],
        "documents",
        False,
        {"problem": "configuration missing", "name": "japanese"},
    ),
    (
        ["DROP FUNCTION cleanup_document_vectors() CASCADE"],
        "document_chunks",
        False,
        {"problem": "function missing", "name": "cleanup_document_vectors"},
    ),
]


def execute(spoiled: Spoiled, *statements: str) -> None:
    with psycopg.connect(spoiled.index.endpoints.postgres_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def catalogue(spoiled: Spoiled) -> list[tuple[Any, ...]]:
    """Every index with its definition and whether it is valid, every key and trigger; but not the names of parts."""
    return spoiled.index.rows(
        """
        SELECT t.relname, regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', ''), i.indisvalid
        FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid WHERE t.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT t.relname, conname || pg_get_constraintdef(c.oid), convalidated
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid WHERE contype <> 'n'
            AND (NOT t.relispartition OR contype = 'c')
        UNION ALL
        SELECT tgrelid::regclass::name, tgname, tgenabled <> 'D' FROM pg_trigger WHERE NOT tgisinternal
        ORDER BY 1, 2, 3
        """
    )


def test_the_declared_schema_is_read_from_the_migrations() -> None:
    schema = declared()
    indexes = {index.name: index for index in schema.indexes}
    assert indexes["idx_documents_tags"].definition == "USING GIN (tags)"
    assert indexes["idx_sources_name_type"].unique
    assert {"japanese"} == set(schema.configurations)
    assert {"cleanup_document_vectors", "create_monthly_partition"} <= set(schema.functions)
    keys = {(key.table, key.name) for key in schema.constraints}
    assert {("documents", "documents_pkey"), ("users", "users_email_key")} <= keys
    assert ("document_chunks", "document_chunks_document_fkey") in keys


@pytest.mark.parametrize("group", [SPOILED[:8], SPOILED[8:-1], SPOILED[-1:]], ids=["one", "two", "three"])
def test_what_is_not_as_declared_is_found_and_rebuilt(
    spoiled: Spoiled, group: list[tuple[list[str], str, bool, dict[str, str]]]
) -> None:
    before = catalogue(spoiled)
    for statements, *_ in group:
        execute(spoiled, *statements)
    found = spoiled.check().index_issues
    for statements, where, monthly, sample in group:
        named = [
            one for f in found if f.where == where and f.month == (MARCH if monthly else None) for one in f.sample
        ]
        assert any(sample.items() <= one.items() for one in named), (statements, named)
    assert all(f.count == len(f.sample) for f in found)
    spoiled.repaired()
    assert catalogue(spoiled) == before
    assert spoiled.embedded == 0


def test_a_detached_month_is_attached_again(spoiled: Spoiled) -> None:
    before = catalogue(spoiled)
    # PostgreSQL does not let a partition go that rows refer to, even its own.
    spoiled.sql("UPDATE document_chunks SET parent_chunk_id = NULL")
    execute(spoiled, "ALTER TABLE document_chunks DETACH PARTITION document_chunks_2024_03")
    found = spoiled.check()
    (finding,) = [f for f in found.index_issues if f.where == "document_chunks"]
    assert (finding.month, finding.sample[0]["problem"]) == (MARCH, "partition missing")
    spoiled.repaired()
    assert catalogue(spoiled) == before
    assert spoiled.embedded == 0


@pytest.mark.parametrize("kind", ["dense", "sparse", "multi"])
def test_a_collection_that_is_not_loaded(spoiled: Spoiled, kind: str) -> None:
    with spoiled.milvus() as client:
        client.release_collection(spoiled.collection(kind))
    (finding,) = spoiled.only("index_issues")
    assert (finding.where, finding.month, finding.sample[0]["problem"]) == (
        f"{kind}_collection",
        None,
        "not loaded",
    )
    spoiled.repaired()


def test_an_index_of_another_type_and_metric(spoiled: Spoiled) -> None:
    name = spoiled.collection("dense")
    with spoiled.milvus() as client:
        client.release_collection(name)
        client.drop_index(name, "vector")
        parameters = client.prepare_index_params()
        parameters.add_index("vector", index_name="vector", index_type="FLAT", metric_type="L2")
        client.create_index(name, parameters)
        client.load_collection(name)
    (finding,) = spoiled.only("index_issues")
    assert finding.sample[0]["found"] == (
        "index_type is FLAT, specified is HNSW, metric_type is L2, specified is IP"
    )
    spoiled.repaired()
    with spoiled.milvus() as client:
        described = client.describe_index(name, "vector")
    assert (described["index_type"], described["metric_type"]) == ("HNSW", "IP")
    assert spoiled.embedded == 0


def test_a_dropped_index_and_what_was_lost_meanwhile(spoiled: Spoiled) -> None:
    name, chunk = spoiled.collection("dense"), spoiled.chunks()[0]
    with spoiled.milvus() as client:
        client.delete(name, ids=[f"{chunk}_dense"])
        client.release_collection(name)
        client.drop_index(name, "vector")
    assert "index missing" in {one["problem"] for f in spoiled.check().index_issues for one in f.sample}
    spoiled.repaired()


def test_an_alias_that_is_missing_or_leads_elsewhere(spoiled: Spoiled) -> None:
    prefix = spoiled.index.prefix
    with spoiled.milvus() as client:
        client.drop_alias(f"{prefix}sparse_collection")
        client.alter_alias(spoiled.collection("multi"), f"{prefix}dense_collection")
    found = {f.where: f.sample[0]["problem"] for f in spoiled.only("index_issues")}
    assert found == {"dense_collection": "alias elsewhere", "sparse_collection": "alias missing"}
    spoiled.repaired()


def test_a_collection_of_another_dimension_is_filled_anew(spoiled: Spoiled) -> None:
    name, alias = spoiled.collection("dense"), f"{spoiled.index.prefix}dense_collection"
    with spoiled.milvus() as client:
        client.drop_alias(alias)
        client.drop_collection(name)
        client.create_collection(name, dimension=8, id_type="string", max_length=255, vector_field_name="vector")
        client.create_alias(name, alias)
    found = spoiled.check()
    assert "dimension" in {one["problem"] for f in found.index_issues for one in f.sample}
    spoiled.repaired()
    assert spoiled.embedded == 0


def test_an_alias_that_leads_to_another_embedders_vectors_is_left_to_people(spoiled: Spoiled) -> None:
    from rag_pipeline.errors import RagError

    other = f"{spoiled.index.prefix}dense_0123456789ab"
    with spoiled.milvus() as client:
        client.create_collection(other, dimension=64, id_type="string", max_length=255)
        client.alter_alias(other, f"{spoiled.index.prefix}dense_collection")
    assert {f.where for f in spoiled.only("index_issues")} == {"dense_collection"}
    with pytest.raises(RagError, match="set RAG_EMBEDDER back"):
        spoiled.repair()
    with spoiled.milvus() as client:
        client.alter_alias(spoiled.collection("dense"), f"{spoiled.index.prefix}dense_collection")
        client.drop_collection(other)
    spoiled.repaired()
