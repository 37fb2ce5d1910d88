"""Differences from the expected schema or the collections' specification are found and repaired."""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import PrivilegeError, RagError, StoreUnavailableError
from rag_pipeline.indexing.verify import verify
from rag_pipeline.local_servers.postgres_folders import programs_for
from rag_pipeline.months import Month
from rag_pipeline.search.candidates import check_embedder, find
from rag_pipeline.stores.filters import Filters
from rag_pipeline.stores.milvus import collection_inspection, index_rebuild
from rag_pipeline.stores.postgres import expected_schema as expected_schema_module
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline.stores.postgres.expected_schema import expected_schema
from rag_pipeline.stores.postgres.schema_description import describe
from rag_pipeline.stores.postgres.schema_inspection import partition_problems, schema_problems
from rag_pipeline.stores.postgres.schema_rebuild import rebuild
from rag_pipeline_tests.support.damaged_index import MARCH, DamagedIndex
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.milvus import refusing

PARENT_INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_chunks_parent'::regclass"
PART_INVALID = """UPDATE pg_index SET indisvalid = false WHERE indexrelid = (
    SELECT inhrelid FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid
    WHERE inhparent = 'idx_documents_tags'::regclass AND indrelid = 'documents_2024_03'::regclass)"""

# Statements, the asset, whether the finding is of March or of the whole index, and the sample's entry.
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
        {"problem": "index differs", "name": "idx_chunks_document", "found": "btree (document_id)"},
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
        {"problem": "leftover index", "table": "document_chunks_2024_03", "name": "left_behind"},
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
        {"problem": "text search configuration missing", "name": "japanese"},
    ),
    (
        [
            "ALTER TABLE document_chunks DROP CONSTRAINT positive_position",
            "ALTER TABLE document_chunks ADD CONSTRAINT positive_position CHECK (position >= -1)",
        ],
        "document_chunks",
        False,
        {
            "problem": "constraint differs",
            "table": "document_chunks",
            "name": "positive_position",
            "found": "CHECK ((\"position\" >= '-1'::integer))",
        },
    ),
    (
        [
            "CREATE OR REPLACE FUNCTION refuse_truncate() RETURNS trigger AS $$ BEGIN RETURN NULL; END; $$ LANGUAGE plpgsql"
        ],
        "documents",
        False,
        {"problem": "function differs", "table": "", "name": "refuse_truncate"},
    ),
    (
        [
            "CREATE OR REPLACE TRIGGER refuse_truncate AFTER TRUNCATE ON documents "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate()"
        ],
        "documents",
        False,
        {
            "problem": "trigger differs",
            "table": "documents",
            "found": "AFTER TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate()",
        },
    ),
    (
        ["DROP FUNCTION cleanup_document_vectors() CASCADE"],
        "document_chunks",
        False,
        {"problem": "function missing", "name": "cleanup_document_vectors"},
    ),
]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, min_size=1)
    schema.migrate(database)
    yield database
    database.close()


def execute(damaged: DamagedIndex, *statements: str) -> None:
    with psycopg.connect(damaged.index.endpoints.postgres_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def catalogue(damaged: DamagedIndex) -> list[tuple[Any, ...]]:
    """Every index with its definition and whether it is valid, every key, trigger and function; but not the names of parts."""
    return damaged.index.rows(
        """
        SELECT t.relname, regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', ''), i.indisvalid
        FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid WHERE t.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT t.relname, conname || pg_get_constraintdef(c.oid), convalidated
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid WHERE contype <> 'n'
            AND (NOT t.relispartition OR contype = 'c')
        UNION ALL
        SELECT tgrelid::regclass::name, pg_get_triggerdef(oid), tgenabled <> 'D' FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT proname, pg_get_functiondef(oid), true FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3
        """
    )


def test_the_expected_schema_is_what_the_migrations_make(database: Database) -> None:
    expected = expected_schema(database)
    indexes = {index.name: index for index in expected.indexes}
    assert indexes["idx_documents_tags"].definition == "gin (tags, (ARRAY[source]))"
    assert indexes["idx_sources_name_type"].unique
    assert {"japanese"} == set(expected.text_search_configurations)
    assert {"cleanup_document_vectors", "create_monthly_partition"} <= set(expected.functions)
    keys = {(key.table, key.name) for key in expected.constraints}
    assert {("documents", "documents_pkey"), ("users", "users_email_key")} <= keys
    assert ("document_chunks", "document_chunks_document_fkey") in keys


def test_describing_the_migrations_schema_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected_schema_module, "_by_server_version", {})
    with database.connection() as connection:
        before = describe(connection)
        objects = connection.execute("SELECT count(*) FROM pg_class").fetchone()
    expected = expected_schema(database)
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM pg_class").fetchone() == objects
        assert connection.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'scratch%'").fetchall() == []
        assert describe(connection) == before

    def ours(things: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(thing for thing in things if thing.table != schema.VERSION_TABLE)

    assert expected == replace(before, indexes=ours(before.indexes), constraints=ours(before.constraints))


def test_a_repair_of_anything_leaves_no_difference(database: Database) -> None:
    # PostgreSQL writes `IN` on a varchar otherwise once it is created from the definition that it gave.
    expected = expected_schema(database)
    for _ in range(3):
        with database.connection() as connection:
            for it in describe(connection).constraints:
                if it.is_check:
                    connection.execute(it.recreate())
            for index in describe(connection).indexes:
                if not index.of_constraint:
                    connection.execute(index.recreate())
        assert schema_problems(database) == []
    with database.connection() as connection:
        found = {index.name: index.definition for index in describe(connection).indexes}
    assert found["idx_documents_work"] not in {index.definition for index in expected.indexes}


def test_a_restored_dump_has_no_difference(
    database: Database, database_url: str, server_endpoints: Endpoints
) -> None:
    schema.ensure_months(database, [MARCH])
    with temporary_database(server_endpoints.postgres_url) as url:
        dump = subprocess.run([programs_for(None) / "pg_dump", database_url], capture_output=True, check=True)
        restore = [programs_for(None) / "psql", "--quiet", "--set=ON_ERROR_STOP=1", url]
        subprocess.run(restore, input=dump.stdout, capture_output=True, check=True)
        restored = Database(url, min_size=1)
        assert schema_problems(restored) == []
        assert partition_problems(restored, MARCH) == []
        restored.close()


@pytest.mark.parametrize(
    "spoil",
    [
        "ALTER TABLE source_items DROP CONSTRAINT valid_state",
        "ALTER TABLE documents DROP CONSTRAINT valid_indexing_status",
        "DROP INDEX idx_source_items_work",
        "DROP INDEX idx_documents_work",
    ],
)
def test_a_repaired_condition_is_no_difference(database: Database, spoil: str) -> None:
    with database.connection() as connection:
        connection.execute(spoil)  # type: ignore[call-overload]
    (problem,) = schema_problems(database)
    rebuild(database, problem)
    assert schema_problems(database) == []


def test_several_processes_may_describe_it_at_once(database_url: str) -> None:
    databases = [Database(database_url, min_size=1) for _ in range(4)]
    schema.migrate(databases[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(expected_schema_module._describe_scratch_schema, databases))
    for database in databases:
        database.close()
    assert all(one == found[0] for one in found)


@contextmanager
def without_create(url: str) -> Iterator[str]:
    """The URL of a database for a user who may do anything in it but create schemas."""
    role = f"reader_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")  # type: ignore[call-overload]
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")  # type: ignore[call-overload]
        try:
            yield f"postgresql://{role}:geheim@{url.rpartition('@')[2]}"
        finally:
            connection.execute(f"DROP OWNED BY {role}")  # type: ignore[call-overload]
            connection.execute(f"DROP ROLE {role}")  # type: ignore[call-overload]


def test_a_missing_privilege_is_named(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected_schema_module, "_by_server_version", {})
    with without_create(database_url) as url:
        reader = Database(url, min_size=1)
        name, role = url.rpartition("/")[2], url.split("/")[2].partition(":")[0]
        try:
            with pytest.raises(PrivilegeError, match=rf'GRANT CREATE ON DATABASE "{name}" TO "{role}"') as caught:
                expected_schema(reader)
            assert "\n" not in str(caught.value)
        finally:
            reader.close()


def test_a_missing_privilege_is_a_finding(damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_schema_module, "_by_server_version", {})
    endpoints = damaged.index.endpoints
    damaged.sql("UPDATE document_chunks SET document_id = gen_random_uuid() WHERE position = 0")
    with without_create(endpoints.postgres_url) as url:
        monkeypatch.setattr(damaged.index, "endpoints", replace(endpoints, postgres_url=url))
        found = damaged.check()
        assert [(f.where, f.month) for f in found.index_issues] == [("documents", None), ("document_chunks", None)]
        assert all("GRANT CREATE ON DATABASE" in f.what_to_do for f in found.index_issues)
        assert found.orphaned_chunks  # the other checks are not kept from their work
        with pytest.raises(PrivilegeError, match="GRANT CREATE"):
            damaged.repair()
        monkeypatch.setattr(damaged.index, "endpoints", endpoints)
    damaged.repaired()


@pytest.mark.parametrize("group", [SPOILED[:8], SPOILED[8:-1], SPOILED[-1:]], ids=["one", "two", "three"])
def test_a_difference_is_found_and_repaired(
    damaged: DamagedIndex, group: list[tuple[list[str], str, bool, dict[str, str]]]
) -> None:
    before = catalogue(damaged)
    for statements, *_ in group:
        execute(damaged, *statements)
    found = damaged.check().index_issues
    for statements, where, monthly, sample in group:
        named = [
            one for f in found if f.where == where and f.month == (MARCH if monthly else None) for one in f.sample
        ]
        assert any(sample.items() <= one.items() for one in named), (statements, named)
    assert all(f.count == len(f.sample) for f in found)
    damaged.repaired()
    assert catalogue(damaged) == before
    assert damaged.embedded == 0


def test_a_detached_month_is_reattached(damaged: DamagedIndex) -> None:
    before = catalogue(damaged)
    # PostgreSQL refuses to detach a partition that rows refer to, even its own rows.
    damaged.sql("UPDATE document_chunks SET parent_chunk_id = NULL")
    execute(damaged, "ALTER TABLE document_chunks DETACH PARTITION document_chunks_2024_03")
    found = damaged.check()
    (finding,) = [f for f in found.index_issues if f.where == "document_chunks"]
    assert (finding.month, finding.sample[0]["problem"]) == (MARCH, "partition missing")
    damaged.repaired()
    assert catalogue(damaged) == before
    assert damaged.embedded == 0


@pytest.mark.parametrize("kind", ["dense", "sparse", "multi"])
def test_a_collection_that_is_not_loaded(damaged: DamagedIndex, kind: str) -> None:
    with damaged.milvus() as client:
        client.release_collection(damaged.collection(kind))
    (finding,) = damaged.only("index_issues")
    assert (finding.where, finding.month, finding.sample[0]["problem"]) == (
        f"{kind}_collection",
        None,
        "not loaded",
    )
    damaged.repaired()


def test_an_index_of_another_type_and_metric(damaged: DamagedIndex) -> None:
    name = damaged.collection("dense")
    spoil_index(damaged, metric="L2")
    (finding,) = damaged.only("index_issues")
    assert finding.sample[0]["found"] == (
        "index_type is FLAT, specified is HNSW, metric_type is L2, specified is IP"
    )
    damaged.repaired()
    with damaged.milvus() as client:
        described = client.describe_index(name, "vector")
    assert (described["index_type"], described["metric_type"]) == ("HNSW", "IP")
    assert damaged.embedded == 0


def spoil_index(damaged: DamagedIndex, metric: str = "IP") -> None:
    """Replace the index of the dense vectors by one of another type, and perhaps another metric."""
    name = damaged.collection("dense")
    with damaged.milvus() as client:
        client.release_collection(name)
        client.drop_index(name, "vector")
        params = client.prepare_index_params()
        params.add_index("vector", index_name="vector", index_type="FLAT", metric_type=metric)
        client.create_index(name, params)
        client.load_collection(name)


@pytest.mark.parametrize("step", ["drop_index", "create_index", "load_collection"])
def test_a_repair_of_an_unloaded_index_that_was_killed_is_continued(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    spoil_index(damaged)
    with damaged.milvus() as client:
        client.release_collection(damaged.collection("dense"))
    kill_repair(damaged, monkeypatch, step)
    with damaged.milvus() as client:
        client.release_collection(damaged.collection("dense"))  # Lite loads a collection that has lost its index.
    assert damaged.check().index_issues
    damaged.repaired()
    assert damaged.embedded == 0


@pytest.mark.parametrize(
    "step", ["upsert", "alter_alias", "release_collection", "drop_index", "create_index", "drop_collection"]
)
def test_a_rebuild_with_a_copy_that_was_killed_is_continued(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    spoil_index(damaged)
    kill_repair(damaged, monkeypatch, step)
    of_the_index = [finding for finding in damaged.check().index_issues if finding.month is None]
    found = {one["problem"] for finding in of_the_index for one in finding.sample}
    of_the_collection = set() if step == "drop_collection" else {"index differs"}
    assert found - {"not loaded"} == of_the_collection | {"copy left behind"}
    with damaged.index.open() as pipeline:
        check_embedder(pipeline.collections)
        pipeline.collections.ensure(MARCH)
    damaged.repaired()
    assert damaged.embedded == 0
    with damaged.milvus() as client:
        assert not [name for name in client.list_collections() if name.endswith("_copy")]


def test_a_copy_that_does_not_fit_changes_nothing(damaged: DamagedIndex) -> None:
    spoil_index(damaged)
    name = damaged.collection("dense")
    with refusing(2003, "quota exceeded"), pytest.raises(StoreUnavailableError, match="release that collection"):
        damaged.repair()
    with damaged.milvus() as client:
        assert f"{name}_copy" not in client.list_collections()
        assert client.get_load_state(name)["state"] == LoadState.Loaded
        client.release_collection(name)
    damaged.repaired()  # without a copy
    assert damaged.embedded == 0


def test_another_embedders_copy_is_left_to_people(damaged: DamagedIndex) -> None:
    other = f"{damaged.index.prefix}dense_0123456789ab"
    with damaged.milvus() as client:
        for name in (other, f"{other}_copy"):
            client.create_collection(name, dimension=64, id_type="string", max_length=255)
        client.alter_alias(f"{other}_copy", f"{damaged.index.prefix}dense_collection")
    with pytest.raises(RagError, match=r"repair --restored.* RAG_EMBEDDER"):
        damaged.repair()
    with damaged.milvus() as client:
        client.alter_alias(damaged.collection("dense"), f"{damaged.index.prefix}dense_collection")
        for name in (other, f"{other}_copy"):
            client.drop_collection(name)
    damaged.repaired()


def test_an_ingest_during_a_rebuild_succeeds_and_keeps_what_it_writes(damaged: DamagedIndex) -> None:
    spoil_index(damaged)
    with damaged.index.open() as pipeline:
        generation = pipeline.collections.generations["dense"]
        index_rebuild.search_copy(pipeline.stores.milvus, generation, lambda *_: None)
    damaged.index.write("march0.md", "# 変わった文書\n\n新しい本文。\n", "2024-03-05")
    damaged.index.write("may.md", "# 五月\n\n新しい月の本文。\n", "2024-05-02")
    result = damaged.index.ingest()
    assert (result.errors, result.stats.documents) == ([], 2)
    with damaged.index.open() as pipeline:
        for month in (MARCH, Month(2024, 5)):
            assert all(counts.equal for counts in verify(pipeline, month, ["dense"]))
    damaged.repaired()
    damaged.index.docs.joinpath("may.md").unlink()
    damaged.restore()


def kill_repair(damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MilvusClient, step, killed)
        damaged.repair()


def test_searches_go_on_and_find_everything_while_an_index_is_rebuilt(damaged: DamagedIndex) -> None:
    name, partition = damaged.collection("dense"), MARCH.milvus_partition

    def everything() -> list[dict[str, Any]]:
        with damaged.milvus() as client:
            return sorted(client.query(name, filter="id != ''", output_fields=["*"]), key=lambda row: row["id"])

    spoil_index(damaged)
    with damaged.milvus() as client:
        stray = client.query(name, filter="id != ''", output_fields=["*"], partition_names=[partition], limit=1)
        client.insert(name, [dict(stray[0]) | {"id": "somebody's", "extra": "dynamic field"}])
    before = everything()
    found: list[set[Any]] = []
    ended = threading.Event()

    def keep_searching() -> None:
        with damaged.index.open() as pipeline:
            generation = pipeline.collections.generations["dense"]
            query = np.asarray(before[0]["vector"], dtype=np.float32)
            while not ended.is_set() or len(found) < 3:
                found.append(set(find(pipeline.stores.milvus, generation, query, Filters(), 100).scores))

    with ThreadPoolExecutor(1) as pool, damaged.index.open() as pipeline:
        searching = pool.submit(keep_searching)
        try:
            (problem,) = collection_inspection.collection_problems(pipeline.collections, "dense")
            collection_inspection.repair(pipeline.collections, problem, lambda *_: None)
            assert collection_inspection.collection_problems(pipeline.collections, "dense") == []
        finally:
            ended.set()
        searching.result()
    assert len(found[0]) == len(before) - 1
    assert [len(one) for one in found if one != found[0]] == [], len(found)
    assert everything() == before
    damaged.repaired()  # of the row that somebody inserted
    assert damaged.embedded == 0


def test_a_repair_waits_for_a_large_index_and_reports_its_progress(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a real server does, which builds and loads in the background. Lite does both within the calls."""
    describe, load, state = MilvusClient.describe_index, MilvusClient.load_collection, MilvusClient.get_load_state
    left, percent = [100, 40], [0, 70]

    def building(client: MilvusClient, *arguments: Any, **options: Any) -> dict[str, Any]:
        found = describe(client, *arguments, **options)
        if found and found["index_type"] == "HNSW" and left:
            found |= {"state": "InProgress", "total_rows": 100, "pending_index_rows": left.pop(0)}
        return found

    def outlasts_its_limit(client: MilvusClient, *arguments: Any, **options: Any) -> None:
        load(client, *arguments, **options)
        if percent and options.get("_async"):  # not the one of the empty copy
            raise MilvusException(code=10001, message="context deadline exceeded")

    def loading(client: MilvusClient, *arguments: Any, **options: Any) -> dict[str, Any]:
        found = state(client, *arguments, **options)
        if not left and percent and found["state"] == LoadState.Loaded:
            return {"state": LoadState.Loading, "progress": percent.pop(0)}
        return found

    spoil_index(damaged)
    monkeypatch.setattr(index_rebuild, "_POLL_SECONDS", 0.01)
    reported: list[tuple[str, int, int | None]] = []
    with damaged.milvus() as client:
        count = len(client.list_partitions(damaged.collection("dense")))
    with damaged.index.open() as pipeline:
        generation = pipeline.collections.generations["dense"]
        (problem,) = collection_inspection.collection_problems(pipeline.collections, "dense")
        monkeypatch.setattr(MilvusClient, "describe_index", building)
        monkeypatch.setattr(MilvusClient, "load_collection", outlasts_its_limit)
        monkeypatch.setattr(MilvusClient, "get_load_state", loading)
        collection_inspection.repair(pipeline.collections, problem, lambda *report: reported.append(report))
    monkeypatch.undo()
    assert reported == [
        *((f"copying {generation.name}, partitions", number, count) for number in range(count)),
        (f"index of {generation.copy}", 0, 100),
        (f"index of {generation.copy}", 60, 100),
        (f"loading {generation.copy}, percent", 70, 100),
    ]
    damaged.repaired()


def test_a_dropped_index_and_what_was_lost_meanwhile(damaged: DamagedIndex) -> None:
    name, chunk = damaged.collection("dense"), damaged.chunks()[0]
    with damaged.milvus() as client:
        client.delete(name, ids=[f"{chunk}_dense"])
        client.release_collection(name)
        client.drop_index(name, "vector")
    assert "index missing" in {one["problem"] for f in damaged.check().index_issues for one in f.sample}
    damaged.repaired()


def test_an_alias_that_is_missing_or_points_elsewhere(damaged: DamagedIndex) -> None:
    prefix = damaged.index.prefix
    with damaged.milvus() as client:
        client.drop_alias(f"{prefix}sparse_collection")
        client.alter_alias(damaged.collection("multi"), f"{prefix}dense_collection")
    found = {f.where: f.sample[0]["problem"] for f in damaged.only("index_issues")}
    assert found == {"dense_collection": "alias points elsewhere", "sparse_collection": "alias missing"}
    damaged.repaired()


def test_a_collection_of_another_dimension_is_recreated_and_refilled(damaged: DamagedIndex) -> None:
    name, alias = damaged.collection("dense"), f"{damaged.index.prefix}dense_collection"
    with damaged.milvus() as client:
        client.drop_alias(alias)
        client.drop_collection(name)
        client.create_collection(name, dimension=8, id_type="string", max_length=255, vector_field_name="vector")
        client.create_alias(name, alias)
    found = damaged.check()
    assert "dimension differs" in {one["problem"] for f in found.index_issues for one in f.sample}
    damaged.repaired()
    assert damaged.embedded == 0


def test_an_alias_of_another_embedders_vectors_is_left_to_people(damaged: DamagedIndex) -> None:
    other = f"{damaged.index.prefix}dense_0123456789ab"
    with damaged.milvus() as client:
        client.create_collection(other, dimension=64, id_type="string", max_length=255)
        client.alter_alias(other, f"{damaged.index.prefix}dense_collection")
    assert {f.where for f in damaged.only("index_issues")} == {"dense_collection"}
    with pytest.raises(RagError, match=r"repair --restored.* RAG_EMBEDDER"):
        damaged.repair()
    with damaged.milvus() as client:
        client.alter_alias(damaged.collection("dense"), f"{damaged.index.prefix}dense_collection")
        client.drop_collection(other)
    damaged.repaired()
