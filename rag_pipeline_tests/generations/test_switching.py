"""A generation is built beside the live one, follows it, takes its place, gives it back, and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from rag_pipeline.cli import server_commands
from rag_pipeline.consistency import repair as repairing
from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.errors import ConfigError, DimensionMismatchError, RagError
from rag_pipeline.generations import build, registry, switching
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.generations import KINDS, WIDE, GenerationIndex
from rag_pipeline_tests.support.index import sections
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import CHEAP


@pytest.fixture
def index(tmp_path: Path, prepared_stores: Stores) -> GenerationIndex:
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("vacuum.md", sections("掃除", "領域の回収", "統計"), "2024-01-31")
    index.write("backup.md", sections("バックアップ", "復元"), "2024-02-01")
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    index.ingest()
    return index


def switch(index: GenerationIndex, **settings: object) -> None:
    with index.opened(**settings) as pipeline:
        switching.switch(pipeline)


def check(index: GenerationIndex, **settings: object) -> None:
    with index.opened(**settings) as pipeline:
        found = DataConsistencyChecker(pipeline).check_consistency()
        assert found.consistent, [str(finding) for finding in found.errors]


def test_the_first_run_records_the_live_generation(index: GenerationIndex) -> None:
    with index.opened() as pipeline:
        (status,) = registry.statuses(pipeline)
    assert (status.row.state, status.row.embedder, status.row.dimension) == ("live", "cheap-64-64", 64)
    assert [str(month) for month in status.months] == ["2024-01", "2024-02"]
    assert [(status.chunks,)] == index.rows("SELECT count(*) FROM document_chunks")
    assert status.row.settings["chunk_tokens"] == 64


def test_a_generation_is_built_beside_the_live_one_and_takes_its_place(index: GenerationIndex) -> None:
    before = index.found("味噌汁")
    row = index.build()
    index.assert_complete(row)
    assert index.found("味噌汁") == before
    assert index.states() == {1: "live", 2: "building"}
    check(index)

    switch(index)

    assert index.states() == {1: "previous", 2: "live"}
    index.assert_complete(row)
    for mode in ("hybrid", "dense", "sparse", "fulltext"):
        # Both a process with the settings of before, and one with those of the generation that is live now.
        assert index.found("味噌汁", mode)[0] == "docs:soup.md"
        assert index.found("味噌汁", mode, embedder=WIDE) == index.found("味噌汁", mode)
    check(index)
    check(index, embedder=WIDE)
    with milvus_client(index.endpoints.milvus_uri) as client:
        for kind in KINDS:
            alias = client.describe_alias(f"{index.prefix}{kind}_collection", timeout=TIMEOUT_SECONDS)
            assert alias["collection_name"] == index.collection(row, kind)


def test_an_edit_and_a_deletion_meanwhile_are_in_both(index: GenerationIndex) -> None:
    with index.opened(embedder=WIDE) as pipeline:
        row = registry.begin(pipeline)
        # The newer month is built, the older one not yet.
        build.build_month(pipeline, row, build.pending_months(pipeline, row)[0], MonthRun())
    index.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    index.write("new.md", sections("新着"), "2024-02-20")
    index.write("april.md", sections("四月"), "2024-04-01")
    index.delete("backup.md")
    index.ingest()
    assert index.rows("SELECT count(*) FROM public_generation_2.documents WHERE title = 'バックアップ'") == [(0,)]

    index.build()

    index.assert_complete(row)
    switch(index)
    assert index.found("昆布")[0] == "docs:soup.md"
    assert "docs:backup.md" not in index.found("バックアップ")
    assert index.found("四月")[0] == "docs:april.md"
    check(index)


def test_the_live_generation_goes_on_after_a_switch_whatever_the_environment_says(index: GenerationIndex) -> None:
    row = index.build()
    switch(index)
    index.write("soup.md", sections("味噌汁", "味噌"), "2024-02-15")
    index.delete("vacuum.md")
    assert index.ingest().errors == []
    index.assert_complete(row)
    index.write("soup.md", sections("味噌汁", "豆腐"), "2024-02-15")
    assert index.ingest(embedder=WIDE).errors == []
    index.assert_complete(row)
    assert index.found("豆腐")[0] == "docs:soup.md"
    # Nothing more is to be done: both environments mean the same.
    assert index.ingest().months == index.ingest(embedder=WIDE).months == []


def test_rollback_goes_back_at_once_and_catches_up_with_the_next_runs(index: GenerationIndex) -> None:
    index.build()
    switch(index)
    index.write("soup.md", sections("味噌汁", "葱"), "2024-02-15")
    index.delete("backup.md")
    index.ingest()

    with index.opened() as pipeline:
        row = switching.rollback(pipeline)

    assert index.states() == {1: "live", 2: "previous"}
    # Deleted in both at once; what was edited is found as it was until its month has run.
    assert "docs:backup.md" not in index.found("バックアップ", "fulltext")
    assert index.found("出汁", "fulltext")[0] == "docs:soup.md"
    index.ingest()
    index.assert_complete(row)
    assert index.found("葱", "fulltext")[0] == "docs:soup.md"
    check(index)


def test_one_can_switch_to_and_fro(index: GenerationIndex) -> None:
    index.build()
    for _ in range(2):
        with index.opened() as pipeline:
            switching.switch(pipeline, 2)
            switching.switch(pipeline, 1)
    assert index.states() == {1: "live", 2: "previous"}
    assert index.found("味噌汁")[0] == "docs:soup.md"
    check(index)


def test_a_dropped_generation_leaves_nothing(index: GenerationIndex) -> None:
    row = index.build()
    with index.opened() as pipeline:
        registry.drop(pipeline, row.id)
    assert index.states() == {1: "live"}
    assert index.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%%generation%%'") == []
    assert index.rows("SELECT * FROM generation_changes") == []
    with milvus_client(index.endpoints.milvus_uri) as client:
        names = client.list_collections(timeout=TIMEOUT_SECONDS)
    assert not [name for name in names if name.endswith(row.collections)]
    check(index)
    # The next one gets another number and other collections.
    again = index.build()
    assert again.id == 3
    assert again.collections != row.collections


def test_the_previous_generation_can_be_dropped_once_no_environment_names_it(index: GenerationIndex) -> None:
    row = index.build()
    switch(index)
    with index.opened() as pipeline, pytest.raises(ConfigError, match="has the settings of generation 1"):
        registry.drop(pipeline, 1)
    with index.opened(embedder=WIDE) as pipeline:
        registry.drop(pipeline, 1)
    assert index.states() == {2: "live"}
    index.assert_complete(row)
    # The first embedder is a mistake now, as any other one is.
    with index.opened() as pipeline, pytest.raises(DimensionMismatchError, match="generations build"):
        search(pipeline, "味噌汁", mode="dense")
    check(index, embedder=WIDE)


def test_a_wrong_embedder_still_stops_with_its_line(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for settings in ({}, {"embedder": WIDE}):
        monkeypatch.setattr(server_commands, "open_pipeline", lambda settings=settings: index.opened(**settings))
        server_commands._prepare()  # As `up` and `dev` do when they start.
        said.append(capsys.readouterr().err)
    assert said[0] == ""
    assert "another embedder: set RAG_EMBEDDER=" in said[1]
    assert said[1].index("RAG_EMBEDDER") < said[1].index("generation 1 holds the vectors of")
    with index.opened(embedder=WIDE) as pipeline, pytest.raises(DimensionMismatchError, match="RAG_EMBEDDER"):
        search(pipeline, "味噌汁", mode="dense")
    with pytest.raises(DimensionMismatchError, match="RAG_EMBEDDER"):
        index.ingest(embedder=WIDE)  # There is nothing to do, and it is wrong all the same.
    index.write("soup.md", sections("味噌汁", "若布"), "2024-02-15")
    with pytest.raises(DimensionMismatchError, match="RAG_EMBEDDER"):
        index.ingest(embedder=WIDE)
    assert index.rows("SELECT DISTINCT state FROM source_items") == [("ingested",)], "no pass has begun"
    assert index.states() == {1: "live"}


def test_an_incomplete_generation_does_not_go_live(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    with index.opened(embedder=WIDE) as pipeline:
        row = registry.begin(pipeline)
        build.build_month(pipeline, row, build.pending_months(pipeline, row)[0], MonthRun())
        monkeypatch.setattr(switching, "_MOST_MISSING", 0)
        with pytest.raises(RagError, match="incomplete: it lacks 1 documents, 1 months"):
            switching.switch(pipeline)
    assert index.states() == {1: "live", 2: "building"}


def test_what_an_older_program_has_built_gets_its_sources_before_it_goes_live(index: GenerationIndex) -> None:
    index.build(chunk_tokens=128)
    index.rows("UPDATE public_generation_2.documents SET source = NULL RETURNING id")
    index.rows("UPDATE public_generation_2.document_chunks SET source = gen_random_uuid() RETURNING id")
    switch(index)
    assert index.states() == {1: "previous", 2: "live"}
    with index.opened() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent


def test_an_inconsistent_generation_does_not_go_live(index: GenerationIndex) -> None:
    row = index.build()
    with milvus_client(index.endpoints.milvus_uri) as client:
        name = index.collection(row, "dense")
        (lost,) = client.query(name, filter="", limit=1, output_fields=["id"], timeout=TIMEOUT_SECONDS)
        client.delete(name, ids=[lost["id"]], timeout=TIMEOUT_SECONDS)
    with pytest.raises(RagError, match=r"generation 2 is inconsistent.*missing.*generations build 2`"):
        switch(index)
    assert index.states() == {1: "live", 2: "building"}
    assert index.found("味噌汁")[0] == "docs:soup.md"


def test_another_size_of_chunks_is_a_generation_too(index: GenerationIndex) -> None:
    one_size = {"embedder": index.variables["RAG_EMBEDDER"], "chunk_tokens": 24}
    with index.opened() as pipeline, pytest.raises(ConfigError, match="same-settings"):
        registry.begin(pipeline)
    ((chunks,),) = index.rows("SELECT count(*) FROM document_chunks")
    index.build(**one_size)
    switch(index)
    ((smaller,),) = index.rows("SELECT count(*) FROM document_chunks")
    assert smaller > chunks
    index.write("soup.md", sections("味噌汁", "三つ葉"), "2024-02-15")
    index.ingest()
    sizes = index.rows("SELECT DISTINCT chunked_with FROM documents")
    assert [size.rpartition("/")[2] for (size,) in sizes] == ["24"]
    with index.opened(**one_size) as pipeline:
        registry.drop(pipeline, 1)
    # Nothing is cut as before by who was forgotten, and everything is found.
    with pytest.raises(RagError, match="generation 2 was switched to with RAG_CHUNK_TOKENS=24"):
        index.ingest()
    assert index.found("三つ葉")[0] == "docs:soup.md"
    check(index)
    assert index.rows("SELECT settings -> 'chunk_tokens' FROM generations") == [(24,)]


def test_an_index_of_an_older_program_gets_rows_with_sources_by_being_built_once_more(
    tmp_path: Path, prepared_stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    with monkeypatch.context() as older:
        older.setattr("rag_pipeline.pipeline.has_source", lambda milvus, name: False)
        index.ingest()
    assert index.rows("SELECT has_sources FROM generations") == [(False,)]
    index.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    assert index.ingest().errors == []
    assert index.found("昆布")[0] == "docs:soup.md"
    with index.opened() as pipeline:
        row = registry.begin(pipeline, same_settings=True)
        assert build.build(pipeline, row).stats.embedded == 0  # All of it is cached.
        switching.switch(pipeline)
    assert index.rows("SELECT id, has_sources FROM generations ORDER BY 1") == [(1, False), (2, True)]
    index.assert_complete(row)
    index.write("soup.md", sections("味噌汁", "煮干し"), "2024-02-15")
    assert index.ingest().errors == []
    with milvus_client(index.endpoints.milvus_uri) as client:
        stored = client.query(
            f"{index.prefix}dense_collection",
            filter="",
            limit=10,
            output_fields=["source"],
            timeout=TIMEOUT_SECONDS,
        )
    assert {row["source"] for row in stored} == {str(source) for (source,) in index.rows("SELECT id FROM sources")}


def test_a_second_generation_cannot_be_begun_with_other_settings(index: GenerationIndex) -> None:
    index.build()
    with index.opened(chunk_tokens=32) as pipeline, pytest.raises(ConfigError, match="generations drop 2"):
        registry.begin(pipeline)


def test_a_deployment_in_a_schema_of_its_own_has_generations_too(tmp_path: Path, prepared_stores: Stores) -> None:
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    with index.opened(postgres_schema="red") as pipeline:
        assert ingest(pipeline).errors == []
    with index.opened(postgres_schema="red", embedder=WIDE) as pipeline:
        row = registry.begin(pipeline)
        assert build.build(pipeline, row).errors == []
        switching.switch(pipeline)
        assert search(pipeline, "味噌汁").hits[0].source_id == "docs:soup.md"
    assert index.rows("SELECT id, state FROM red.generations ORDER BY 1") == [(1, "previous"), (2, "live")]
    schemas = index.rows(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'document_chunks_%%' ORDER BY 1"
    )
    # Only they have months: what this database had before it in `public` was left alone.
    assert schemas == [("red",), ("red_generation_1",)]


def test_a_month_expires_in_all_generations(index: GenerationIndex) -> None:
    row = index.build()
    with index.opened(retention_months=1) as pipeline:
        from rag_pipeline.indexing.retention import apply_retention
        from rag_pipeline.months import Month

        apply_retention(pipeline, Month(2024, 3))
    assert index.rows("SELECT to_regclass('public_generation_2.documents_2024_01')") == [(None,)]
    assert [title for (title,) in index.rows("SELECT title FROM public_generation_2.documents ORDER BY 1")] == [
        title for (title,) in index.rows("SELECT title FROM documents ORDER BY 1")
    ]
    index.assert_complete(row)
    switch(index)
    check(index)


def lose_collections(index: GenerationIndex) -> None:
    """Lose all that Milvus holds of an index."""
    with milvus_client(index.endpoints.milvus_uri) as client:
        for name in client.list_collections(timeout=TIMEOUT_SECONDS):
            if name.startswith(index.prefix):
                for alias in client.list_aliases(collection_name=name, timeout=TIMEOUT_SECONDS)["aliases"]:
                    client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
                client.drop_collection(name, timeout=TIMEOUT_SECONDS)


def repaired(index: GenerationIndex, *, restored: bool = False, **settings: object) -> list[str]:
    """Repair an index; return what `take_aliases` did."""
    with index.opened(**settings) as pipeline:
        left = repairing.take_aliases(pipeline) if restored else []
        result = repairing.repair(pipeline)
        assert result.remaining.consistent, [str(finding) for finding in result.remaining.errors]
    return left


def test_a_lost_milvus_is_not_filled_again_by_another_embedder(index: GenerationIndex) -> None:
    lose_collections(index)
    with index.opened(embedder=WIDE) as pipeline:
        for ask in (
            repairing.repair,
            lambda pipeline: DataConsistencyChecker(pipeline).check_consistency(),
            lambda pipeline: search(pipeline, "味噌汁", mode="dense"),
        ):
            with pytest.raises(DimensionMismatchError, match="generation 1 holds the vectors of cheap-64-64"):
                ask(pipeline)
        assert index.found("味噌汁", "fulltext", embedder=WIDE)
    repaired(index)
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"


@pytest.mark.parametrize("is_recorded", [True, False])
def test_another_prefix_is_a_mistake_unless_somebody_says_that_it_is_meant(
    index: GenerationIndex, is_recorded: bool
) -> None:
    other = f"{index.prefix}other_"
    if not is_recorded:
        index.rows("UPDATE generations SET milvus_prefix = NULL")  # As an older program left it.
    with index.opened(milvus_prefix=other) as pipeline:
        for ask in (
            repairing.repair,
            lambda pipeline: DataConsistencyChecker(pipeline).check_consistency(),
            lambda pipeline: search(pipeline, "味噌汁", mode="dense"),
        ):
            with pytest.raises(RagError, match=f": set RAG_MILVUS_PREFIX={index.prefix};"):
                ask(pipeline)
    with milvus_client(index.endpoints.milvus_uri) as client:
        names = client.list_collections(timeout=TIMEOUT_SECONDS)
    assert [name for name in names if name.startswith(other)] == []
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"
    assert index.rows("SELECT milvus_prefix FROM generations") == [(index.prefix,)]
    with (
        index.opened(milvus_prefix=other, embedder=WIDE) as pipeline,
        pytest.raises(RagError, match="MILVUS_PREFIX"),
    ):
        registry.begin(pipeline)

    assert repaired(index, restored=True, milvus_prefix=other) == []

    assert index.found("味噌汁", "dense", milvus_prefix=other)[0] == "docs:soup.md"
    with pytest.raises(RagError, match=f"set RAG_MILVUS_PREFIX={other};"):
        index.found("味噌汁", "dense")


def test_nothing_goes_back_to_a_generation_that_milvus_has_lost(index: GenerationIndex) -> None:
    index.build()
    switch(index)
    lose_collections(index)
    repaired(index, embedder=WIDE)
    with index.opened() as pipeline:
        row = registry.find(pipeline, 1, "previous")
        with pytest.raises(RagError, match=r"generation 1, of the months 2024-01, 2024-02: .*generations build 1"):
            switching.rollback(pipeline)
        with pytest.raises(RagError, match="inconsistent"):
            switching.switch(pipeline, 1)  # It creates the collections, and they are empty.
        with pytest.raises(RagError, match="generations build 1"):
            switching.rollback(pipeline)
        lost = build.restore_collections(pipeline, row)
        built = build.build(pipeline, row, lost=lost)
        assert (built.errors, sorted(map(str, built.months))) == ([], ["2024-01", "2024-02"])
        assert build.restore_collections(pipeline, row) == []
        switching.rollback(pipeline)
    index.assert_complete(row)
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"
    check(index)


@pytest.mark.parametrize("dropped", [False, True])
def test_a_backup_from_before_a_switch_can_be_restored(index: GenerationIndex, dropped: bool) -> None:
    """The embedder stays the same; the chunks are others."""
    with backup_of(index) as restore:
        other = {"chunk_tokens": 32, "embedder": CHEAP}
        unknown = index.build(**other)
        switch(index, **other)
        if dropped:
            with index.opened(**other) as pipeline:
                registry.drop(pipeline, 1)
        restore()
    assert index.states() == {1: "live"}
    with index.opened() as pipeline, pytest.raises(RagError, match="repair --restored"):
        repairing.repair(pipeline)
    assert repaired(index, restored=True) == sorted(index.collection(unknown, kind) for kind in KINDS)
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"
    check(index)
    index.write("soup.md", sections("味噌汁", "若布"), "2024-02-15")
    assert index.ingest().errors == []
    check(index)


def test_a_restored_index_keeps_the_collections_of_its_other_generations(index: GenerationIndex) -> None:
    row = index.build()
    with backup_of(index) as restore:
        switch(index)
        restore()
    assert index.states() == {1: "live", 2: "building"}
    assert repaired(index, restored=True) == []
    index.assert_complete(row)
    switch(index)
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"


def test_nothing_goes_back_to_an_embedder_that_does_not_work(index: GenerationIndex) -> None:
    class Broken(CheapEmbedder):
        def encode_query(self, *_: object) -> ChunkVectors:
            raise ValueError("vectors of 24 dimensions")

    index.build()
    switch(index)
    embedder = Broken()
    embedder.fingerprint = index.rows("SELECT embedder FROM generations WHERE id = 1")[0][0]
    with index.opened() as first, Pipeline(first.settings, index.endpoints, embedder=embedder) as pipeline:
        with pytest.raises(
            RagError,
            match=r"embedder of generation 1 does not work: .*24 dimensions; .*rollback 1 --without-embedder",
        ):
            switching.rollback(pipeline)
        assert index.states() == {1: "previous", 2: "live"}
        switching.rollback(pipeline, without_embedder=True)
    assert index.states() == {1: "live", 2: "previous"}


def test_postgresql_can_be_begun_anew_after_a_switch(index: GenerationIndex) -> None:
    with backup_of(index, of_nothing=True) as restore:
        index.build(chunk_tokens=32, embedder=CHEAP)
        switch(index, chunk_tokens=32)
        restore()
    with index.opened() as pipeline:
        pipeline.prepare()
        with pytest.raises(RagError, match="repair --restored"):
            index.ingest()
    repaired(index, restored=True)
    assert index.ingest().errors == []
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"
    check(index)


@contextmanager
def backup_of(index: GenerationIndex, *, of_nothing: bool = False) -> Iterator[Callable[[], None]]:
    """A copy of the index's database, or an empty one, and what puts it into its place."""
    server, _, name = index.endpoints.postgres_url.rpartition("/")
    copy = f"{name}_backup"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:

        def run(statement: str, *names: str) -> None:
            admin.execute(SQL(statement).format(*map(Identifier, names)))

        def restore() -> None:
            run("DROP DATABASE {} WITH (FORCE)", name)
            run("ALTER DATABASE {} RENAME TO {}", copy, name)

        run("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE {}", copy, "template0" if of_nothing else name)
        yield restore
