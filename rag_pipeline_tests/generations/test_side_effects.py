"""What a generation must not do to another one, to runs, to sources, to caches and to those who are not ready for it."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.embedding.factory import described_with
from rag_pipeline.errors import ConfigError, LockLostError, RagError
from rag_pipeline.generation import OpenGeneration, configuration, settings_of
from rag_pipeline.generations import build, registry, switching
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.month_run import MonthRun, run_steps
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.service.searching import Searching
from rag_pipeline.settings import Settings
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import create
from rag_pipeline.stores.postgres import index_epochs, schema
from rag_pipeline.stores.postgres.generations import GenerationRow
from rag_pipeline_tests.support.embedding_server import EMBED_SPARSE, loopback_server
from rag_pipeline_tests.support.generations import WIDE, GenerationIndex
from rag_pipeline_tests.support.index import sections
from rag_pipeline_tests.support.stores import Stores

_UNSET_SPARSE = "unset RAG_EMBEDDING_SPARSE_URL and unset RAG_EMBEDDING_SPARSE_MODEL"
JANUARY, FEBRUARY, MARCH = (Month(2024, number) for number in (1, 2, 3))


@pytest.fixture
def documents(tmp_path: Path, prepared_stores: Stores) -> GenerationIndex:
    """Nothing is indexed yet."""
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("vacuum.md", sections("掃除", "領域の回収"), "2024-01-31")
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    return index


@pytest.fixture
def index(documents: GenerationIndex) -> GenerationIndex:
    documents.ingest()
    return documents


def scan(pipeline: Pipeline) -> None:
    for source in pipeline.sources.values():
        scan_source(pipeline, source, confirm_deletions=True)


def switch(index: GenerationIndex, *to: int) -> None:
    with index.opened() as pipeline:
        switching.switch(pipeline, *to)


def assert_consistent(index: GenerationIndex, **settings: object) -> None:
    with index.opened(**settings) as pipeline:
        found = DataConsistencyChecker(pipeline).check_consistency()
        assert found.consistent, [str(finding) for finding in found.errors]


def test_the_first_runs_of_an_index_can_go_side_by_side(documents: GenerationIndex) -> None:
    with documents.opened() as one, documents.opened() as other:
        scan(one)
        with one.month_lock(JANUARY), other.month_lock(FEBRUARY):
            run_steps(one, JANUARY, MonthRun())
            run_steps(other, FEBRUARY, MonthRun())
    assert documents.states() == {1: "live"}
    assert_consistent(documents)
    assert documents.found("味噌汁")[0] == "docs:soup.md"


def test_a_month_of_which_nothing_can_be_read_keeps_no_generation_from_going_live(
    documents: GenerationIndex,
) -> None:
    broken = documents.docs / "2023.pdf"
    broken.write_bytes(b"%PDF-1.4 broken")
    os.utime(broken, (1_680_000_000, 1_680_000_000))
    documents.ingest()
    documents.build()
    switch(documents)
    assert documents.states() == {1: "previous", 2: "live"}


def test_a_run_that_has_lost_its_locks_writes_nothing_into_the_tables_of_another_generation(
    index: GenerationIndex,
) -> None:
    index.build()
    index.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    with index.opened() as run, index.opened() as other, run.month_lock(FEBRUARY):
        scan(other)
        holders = "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'"
        for (pid,) in index.rows(holders):
            index.rows("SELECT pg_terminate_backend(%s)", pid)
        deadline = time.monotonic() + 30
        while index.rows(holders) and time.monotonic() < deadline:
            time.sleep(0.02)
        switching.switch(other)
        with pytest.raises(LockLostError):
            run_steps(run, FEBRUARY, MonthRun())
    index.ingest()
    assert {embedder for (embedder,) in index.rows("SELECT DISTINCT embedder FROM document_chunks")} == {
        "wide-96-96"
    }
    assert_consistent(index)


def test_deletions_and_a_copy_of_the_same_documents_do_not_end_each_other(documents: GenerationIndex) -> None:
    for number in range(12):
        documents.write(f"d{number:02}.md", sections(f"題{number}"), "2024-03-05")
    documents.ingest()
    with documents.opened(embedder=WIDE) as pipeline:
        row = registry.begin(pipeline)
        build.pending_months(pipeline, row)
    for number in range(12):
        documents.delete(f"d{number:02}.md")
    failures: list[BaseException] = []
    with documents.opened(max_deleted_share=1.0) as live, documents.opened(embedder=WIDE) as builder:
        scan(live)
        with builder.beside(row) as other:
            schema.ensure_months(other.stores.database, [MARCH])
        documents.rows(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.05); RETURN new; END $$"
        )
        documents.rows(
            f"CREATE TRIGGER slow BEFORE INSERT ON public_generation_{row.id}.documents "
            "FOR EACH ROW EXECUTE FUNCTION slow()"
        )

        def copy() -> None:
            build.build_month(builder, row, MARCH, MonthRun())

        def delete() -> None:
            with live.month_lock(MARCH):
                run_steps(live, MARCH, MonthRun())

        def noted(work: Any) -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=noted, args=[work]) for work in (copy, delete)]
        for thread in threads:
            thread.start()
            time.sleep(0.2)  # So that the deletion meets the copy; whichever wins, neither may fail.
        for thread in threads:
            thread.join()
    # Dropped again, or the check would find a trigger that nobody asked for.
    documents.rows(f"DROP TRIGGER slow ON public_generation_{row.id}.documents")
    assert failures == []
    assert documents.rows(
        f"SELECT count(*) FROM public_generation_{row.id}.documents WHERE title LIKE '見出し%%' AND created_at >= '2024-03-01'"
    ) == [(0,)]


@pytest.mark.parametrize(("first", "second"), [("dense,sparse,multi", "dense"), ("dense", "dense,sparse,multi")])
def test_a_code_location_that_was_loaded_for_other_kinds_goes_on(
    documents: GenerationIndex, first: str, second: str
) -> None:
    documents.ingest(vectors=first)
    documents.build(vectors=second)
    with documents.opened(vectors=first) as pipeline:
        switching.switch(pipeline)
    documents.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    # As the asset does that has the kinds of its definitions, all of which are chosen.
    with documents.opened(vectors=first) as pipeline:
        scan(pipeline)
        with pipeline.month_lock(FEBRUARY):
            ingest_documents(pipeline, FEBRUARY)
            chunk_documents(pipeline, FEBRUARY)
            index_vectors(pipeline, FEBRUARY, pipeline.vectors)
    assert documents.found("昆布", "dense", vectors=first)[0] == "docs:soup.md"
    assert_consistent(documents, vectors=first)


def test_other_chunks_need_no_document_to_be_read_again(index: GenerationIndex) -> None:
    size = {"embedder": index.variables["RAG_EMBEDDER"], "chunk_tokens": 24}
    index.build(**size)
    switch(index)
    for settings in ({}, {"chunk_tokens": 24}, {}):
        done = index.ingest(**settings)
        assert (done.stats.changed, done.stats.documents, done.stats.chunks) == (0, 0, 0)
    assert index.rows("SELECT * FROM generation_changes") == []


def test_a_previous_generation_can_be_brought_up_to_date_and_be_gone_back_to_by_its_number(
    index: GenerationIndex,
) -> None:
    index.build()
    switch(index)
    index.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    index.ingest()
    with index.opened() as pipeline:
        first = registry.find(pipeline, 1, "previous")
        assert build.missing_documents(pipeline, first) == 1
        assert build.build(pipeline, first).errors == []
    index.assert_complete(first)
    third = index.build(embedder=index.variables["RAG_EMBEDDER"], chunk_tokens=24)
    switch(index, third.id)
    with index.opened() as pipeline:
        switching.rollback(pipeline, 1)
    assert index.states() == {1: "live", 2: "previous", 3: "previous"}
    assert_consistent(index)


def third() -> Any:
    """An embedder that made no generation."""
    from rag_pipeline_tests.support.embedders import CheapEmbedder

    return CheapEmbedder(32, "third")


def test_settings_that_made_no_generation_do_no_harm_to_a_switch(index: GenerationIndex) -> None:
    index.build()
    with index.opened(embedder=f"{__name__}:third") as pipeline:
        switching._give_own_aliases(pipeline, registry.find(pipeline, None, "live"))
        assert index.found("味噌汁")[0] == "docs:soup.md"
        switching.switch(pipeline)
    assert index.states() == {1: "previous", 2: "live"}
    assert_consistent(index)


def test_a_process_that_tells_its_embedding_server_in_other_words_goes_on_after_a_switch(
    documents: GenerationIndex,
) -> None:
    """The dimension that the server has anyway, or another address of the same server."""
    with loopback_server() as server, loopback_server() as same:
        first = {
            "embedder": "openai",
            "vectors": "dense,sparse",
            "embedding_url": server.url,
            "embedding_model": "a",
        }
        others: list[dict[str, object]] = [{"embedding_dimensions": server.dimension}, {"embedding_url": same.url}]
        documents.ingest(**first)
        with (
            documents.opened(**first | {"embedding_url": same.url}) as pipeline,
            pytest.raises(ConfigError, match="same-settings"),
        ):
            registry.begin(pipeline)
        documents.build(**first | {"embedding_model": "b", "chunk_tokens": 24})
        with documents.opened(**first | {"embedding_url": same.url}) as pipeline:
            switching.switch(pipeline)
        for own in others:
            assert documents.found("味噌汁", "dense", **first | own)[0] == "docs:soup.md"
            done = documents.ingest(**first | own)
            assert (done.months, done.errors) == ([], [])
            with (
                documents.opened(**first | own) as pipeline,
                pytest.raises(ConfigError, match="has the settings of"),
            ):
                registry.drop(pipeline, 1)
        server.requests.clear()
        wrong: dict[str, object] = {
            "embedding_sparse_url": server.url + EMBED_SPARSE,
            "embedding_sparse_model": "s",
        }
        with documents.opened(**first | wrong) as pipeline, pytest.raises(RagError, match=_UNSET_SPARSE):
            search(pipeline, "味噌汁")
        assert server.requests == [], "one that is wrong is not asked first"
        assert same.requests, "both generations' server is asked where the process says that it is"


def test_what_is_taken_over_is_another_state_of_the_index(index: GenerationIndex) -> None:
    def epoch() -> str:
        with index.opened() as pipeline, pipeline.stores.database.connection() as connection:
            return index_epochs.current(connection)

    before = epoch()
    index.build()
    switch(index)
    index.write("soup.md", "# 新しい題\n\n" + sections("味噌汁", "出汁"), "2024-02-15", language="en")
    index.ingest()
    with index.opened() as pipeline:
        switching.rollback(pipeline)
    assert index.rows("SELECT title FROM documents WHERE source_id = 'docs:soup.md'") == [("新しい題",)]
    assert epoch() != before


def test_a_build_that_goes_on_is_no_inconsistency(index: GenerationIndex) -> None:
    row = index.build()
    index.rows(f"UPDATE public_generation_{row.id}.document_chunks SET embedding_status = 'processing'")
    index.rows(f"UPDATE public_generation_{row.id}.documents SET indexing_status = 'indexing'")
    with index.opened() as pipeline, pipeline.beside(row) as builder, pipeline.beside(row) as other:
        with builder.month_lock(FEBRUARY), builder.month_lock(JANUARY):
            problems = [str(finding) for finding in DataConsistencyChecker(other).check_consistency().errors]
        assert not [problem for problem in problems if "no run in progress" in problem]
        again = [str(finding) for finding in DataConsistencyChecker(other).check_consistency().errors]
        assert [problem for problem in again if "no run in progress" in problem]


def test_a_drop_takes_along_what_a_rebuild_of_an_index_left(index: GenerationIndex) -> None:
    row = index.build()
    with index.opened() as pipeline, pipeline.stores.milvus.client() as client:
        with pipeline.beside(row) as other:
            dense = other.collections.generations["dense"]
            create(client, dense, dense.copy)
        registry.drop(pipeline, row.id)
        left = client.list_collections(timeout=TIMEOUT_SECONDS)
    assert [name for name in left if row.collections in name] == []


def test_what_others_may_read_they_may_read_after_a_switch(index: GenerationIndex) -> None:
    role = f"reader_{index.prefix.strip('_')}"
    index.rows(f"CREATE ROLE {role}")
    try:
        index.rows(f"GRANT SELECT ON documents, document_chunks TO {role}")
        index.build()
        switch(index)
        for table in ("documents", "document_chunks"):
            assert index.rows("SELECT has_table_privilege(%s, %s, 'SELECT')", role, f"public.{table}") == [(True,)]
            assert index.rows("SELECT has_table_privilege(%s, %s, 'INSERT')", role, f"public.{table}") == [
                (False,)
            ]
    finally:
        index.rows(f"DROP OWNED BY {role}")
        index.rows(f"DROP ROLE {role}")


def test_an_embedder_need_not_be_hashable() -> None:
    @dataclass
    class Unhashable:
        dimension: int = 64

        def encode_query(self, *_: object) -> str:
            return "vectors"

    searching = Searching.__new__(Searching)
    searching._queries = {}
    embedder = cast(Any, Unhashable())
    assert searching._encode_query_of(embedder)("a query", ("dense",), None) == "vectors"  # type: ignore[comparison-overlap]


def test_a_server_keeps_its_login_and_no_other_one_gets_its_key(documents: GenerationIndex) -> None:
    def settings(host: str, model: str) -> Any:
        return documents.settings(
            embedder="openai",
            vectors="dense,sparse",
            embedding_url=f"https://{host}/v1",
            embedding_model=model,
            embedding_dimensions=8,
            embedding_api_key=None if "@" in host else "secret-key",
        )

    def in_use(own: Any, live: Any) -> Any:
        return settings_of(cast(Any, SimpleNamespace(settings=configuration(live))), own)

    same_host = in_use(settings("u:pw@host", "a"), settings("u:pw@host", "b"))
    assert same_host.embedding_url.get_secret_value() == "https://u:pw@host/v1"
    assert same_host.embedding_model == "b"
    assert (
        in_use(settings("host", "a"), settings("host", "b")).embedding_api_key.get_secret_value() == "secret-key"
    )
    assert in_use(settings("host", "a"), settings("other", "b")).embedding_api_key is None
    assert "pw" not in str(configuration(settings("u:pw@host", "a")))


def test_the_variables_to_set_back_are_those_that_help(documents: GenerationIndex) -> None:
    def settings(**fields: object) -> Settings:
        return documents.settings(**{"vectors": "dense,sparse", **fields})

    made_with = settings(
        embedder="openai",
        embedding_url="https://host/v1",
        embedding_model="a",
        embedding_passage_prefix="passage: ",
    )
    described = described_with(made_with, 8)
    assert described is not None
    row = GenerationRow(
        id=1,
        state="live",
        embedder=described.fingerprint,
        dimension=8,
        multi_dimension=8,
        settings=configuration(made_with),
        collections="x",
        milvus_prefix=made_with.milvus_prefix,
        own_aliases=False,
        has_sources=True,
        is_noted=True,
        created_at=datetime.now(UTC),
        live_since=None,
    )

    def refused(own: Settings) -> str:
        with pytest.raises(RagError) as raised:
            _ = OpenGeneration(own, cast(Any, SimpleNamespace(milvus=None)), row, None).collections
        return str(raised.value)

    assert (
        ": set RAG_EMBEDDER=openai and set RAG_EMBEDDING_URL=https://host/v1/embeddings and set RAG_EMBEDDING_MODEL=a "
        "and set RAG_EMBEDDING_PASSAGE_PREFIX='passage: ' and set RAG_VECTORS=dense,sparse, or build"
    ) in refused(settings(vectors="dense,sparse,multi"))
    other = {name: getattr(made_with, name) for name in made_with.model_fields_set}
    sparse = {"embedding_sparse_url": "https://host/pooling", "embedding_sparse_model": "s"}
    assert re.search(f": {_UNSET_SPARSE}, or build", refused(settings(**other | sparse)))


def test_a_server_of_sparse_vectors_belongs_to_the_generation(documents: GenerationIndex) -> None:
    def settings(sparse: str | None, embedder: str = "openai") -> Any:
        return documents.settings(
            embedder=embedder,
            vectors="dense,sparse",
            embedding_url="https://host/v1",
            embedding_model="a",
            embedding_dimensions=8,
            embedding_sparse_url=sparse and f"https://{sparse}",
            embedding_sparse_model=sparse and "s",
            embedding_sparse_api_key=None if sparse is None or "@" in sparse else "secret-key",
        )

    def in_use(own: Any, live: Any) -> Any:
        return settings_of(cast(Any, SimpleNamespace(settings=configuration(live))), own)

    assert "embedding_sparse_url" not in configuration(settings(None)), "as it was recorded before there was one"
    assert "pw" not in str(configuration(settings("u:pw@host/pooling")))
    mine, login = settings("host/pooling"), settings("u:pw@host/pooling")
    assert in_use(login, settings("host/pooling")).embedding_sparse_url.get_secret_value() == (
        "https://u:pw@host/pooling"
    )
    assert in_use(mine, settings("host/embed_sparse")).embedding_sparse_api_key.get_secret_value() == "secret-key"
    assert in_use(mine, settings("other/pooling")).embedding_sparse_api_key is None
    for own in (mine, settings("host/pooling", "local")):
        without = in_use(own, settings(None))
        assert without.embedding_sparse_url is None, "the live generation has BM25"
        assert without.embedding_sparse_model is None


def test_a_generation_whose_vectors_are_lost_is_not_gone_back_to(index: GenerationIndex) -> None:
    index.build()
    switch(index)
    with index.opened() as pipeline, pipeline.stores.milvus.client() as client:
        first = registry.find(pipeline, 1, "previous")
        name = index.collection(first, "dense")
        for alias in client.list_aliases(collection_name=name, timeout=TIMEOUT_SECONDS)["aliases"]:
            client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
        client.drop_collection(name, timeout=TIMEOUT_SECONDS)
        with pytest.raises(RagError, match=r"lost vectors of generation 1, .*`rag-pipeline generations build 1`"):
            switching.rollback(pipeline)
    assert index.states() == {1: "previous", 2: "live"}
