"""What an embedding server does, and what becomes of the index: through the real write path, on the real stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.repair import repair
from rag_pipeline.embedding import factory
from rag_pipeline.embedding.openai.server import EmbeddingServer, Patience
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.service.server import warm_up
from rag_pipeline.settings import Settings
from rag_pipeline_tests.support import embedding_server as fake
from rag_pipeline_tests.support import http_service
from rag_pipeline_tests.support.command_line import CommandLine, one_line
from rag_pipeline_tests.support.embedding_server import (
    Behaviour,
    LoopbackServer,
    loopback_server,
    openai_embedder,
    openai_settings,
)
from rag_pipeline_tests.support.index import Index, section, sections
from rag_pipeline_tests.support.stores import Stores

KEY = "sk-very-secret-0123456789"
STATUSES = "SELECT DISTINCT embedding_status FROM document_chunks"
QUARANTINED = "SELECT content, embedding_error FROM document_chunks WHERE embedding_status = 'failed'"


class ServedIndex(Index):
    """An index whose embedder asks a server."""

    def __init__(self, folder: Path, stores: Stores, server: LoopbackServer) -> None:
        super().__init__(folder, stores)
        self.server = server
        self._opened = openai_embedder(server.url, embedding_seconds=0.5, embedding_batch_texts=4)
        self.embedder = self._opened.__enter__()  # type: ignore[assignment]
        self.sparse: dict[str, object] = {}
        """The settings of a server of sparse vectors."""

    def settings(self, **overrides: object) -> Settings:
        return super().settings(**{"vectors": ("dense", "sparse"), **overrides})

    def use(self, patience: Patience, breaker: CircuitBreaker | None = None) -> None:
        """Ask the server with another patience from now on."""
        self.close()
        self._opened = openai_embedder(
            self.server.url, patience=patience, breaker=breaker, embedding_seconds=0.5, **self.sparse
        )
        self.embedder = self._opened.__enter__()  # type: ignore[assignment]

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def assert_complete(self) -> None:
        """Everything is searchable, and `check` finds nothing."""
        self.assert_consistent()
        with self.open() as pipeline:
            assert DataConsistencyChecker(pipeline).check_consistency().consistent


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as server:
        yield server


@pytest.fixture
def index(tmp_path: Path, stores: Stores, server: LoopbackServer) -> Iterator[ServedIndex]:
    with closing(ServedIndex(tmp_path, stores, server)) as index:
        yield index


OUTAGES: dict[str, Behaviour] = {
    "dead": lambda request: request.server.dying(request),
    "hangs": fake.hanging,
    "drips": fake.dripping,
    "throttles": fake.throttling("1"),
    "throttles for an hour": fake.throttling("3600"),
    "fails": fake.refusing(500, "out of memory"),
    "is starting": fake.refusing(503),
    "cuts the connection": fake.cutting,
    "wants another key": fake.refusing(401),
    "has not this model": fake.refusing(404),
    "is something else": fake.no_json,
    "too few vectors": fake.too_few,
    "another dimension": fake.another_dimension,
    "an index twice": fake.one_index_twice,
    "refuses every text": fake.refusing(400, "unknown parameter: input"),
    "computes nonsense": fake.spoiling("", float("nan")),
}


def test_an_outage_of_any_kind_fails_no_chunk_and_the_next_run_completes(
    index: ServedIndex, server: LoopbackServer
) -> None:
    for number, (name, behaviour) in enumerate(OUTAGES.items()):
        index.write(f"{number}.md", sections(*(f"{name}{part}" for part in range(3))))
        server.always = behaviour
        with pytest.raises(StoreUnavailableError) as raised:
            index.ingest()
        assert "\n" not in str(raised.value), name
        assert f"RAG_EMBEDDING_URL={server.url}" in str(raised.value), name
        assert index.rows(STATUSES) == [("pending",)], name
        assert index.rows("SELECT id FROM documents WHERE 'failed' IN (processing_status, indexing_status)") == []
        if server._server is None:
            server.start()
    server.always = fake.normally
    assert index.ingest().complete
    index.assert_complete()


RECOVERIES: dict[str, Behaviour] = {
    "throttles": fake.throttling("0"),
    "fails": fake.refusing(500),
    "hangs": fake.hanging,
    "cuts the connection": fake.cutting,
}
OTHER_WAYS: dict[str, Behaviour] = {
    "backwards": fake.backwards,
    "lists": fake.as_lists,
    "no encoding_format": fake.without("encoding_format"),
    "no dimensions": fake.without("dimensions"),
    "neither": fake.without("encoding_format", "dimensions"),
}


def test_short_failures_and_other_ways_to_answer_are_no_failures(
    index: ServedIndex, server: LoopbackServer
) -> None:
    for name, behaviour in OTHER_WAYS.items():
        index.use(fake.SOON)
        server.always = behaviour
        index.write(f"{name}.md", sections(name, f"{name}2"))
        assert index.ingest().complete, name
    server.always = fake.normally
    index.use(replace(fake.SOON, seconds=15))
    server.script.extend(RECOVERIES.values())
    index.write("recovers.md", sections(*(f"節{part}" for part in range(20))))
    result = index.ingest()
    assert result.complete
    assert result.embedding_tokens > 0
    assert not server.script
    index.assert_complete()


def test_a_server_that_is_killed_in_the_middle_and_comes_back_is_waited_for(
    index: ServedIndex, server: LoopbackServer
) -> None:
    def restarting(request: fake.Request) -> None:
        threading.Timer(0.5, server.start).start()
        server.dying(request)

    index.use(replace(fake.SOON, seconds=15))
    server.script.extend([fake.normally, fake.normally, restarting])
    index.write("a.md", sections(*(f"節{part}" for part in range(60))))
    assert index.ingest().complete
    index.assert_complete()


def test_what_was_written_before_a_server_died_stays(index: ServedIndex, server: LoopbackServer) -> None:
    for number in range(20):
        index.write(f"{number}.md", sections(*(f"節{number}の{part}" for part in range(3))))
    server.script.extend([fake.normally] * 9)
    server.always = server.dying
    with pytest.raises(StoreUnavailableError, match="RAG_EMBEDDING_URL="):
        index.ingest()
    assert {status for (status,) in index.rows(STATUSES)} == {"completed", "pending"}
    embedded = len(set(server.texts))
    server.always = fake.normally
    server.requests.clear()
    server.start()
    assert index.ingest().complete
    index.assert_complete()
    ((chunks,),) = index.rows("SELECT count(*) FROM document_chunks")
    assert len(server.texts) < chunks, "what was cached is not embedded again"
    assert embedded < chunks


@pytest.mark.parametrize(
    "behaviour", [fake.refusing_text("毒"), fake.refusing_text("毒", 413), fake.spoiling("毒", 0.0)]
)
def test_a_text_that_the_server_cannot_embed_is_quarantined_alone(
    index: ServedIndex, server: LoopbackServer, behaviour: Behaviour
) -> None:
    server.always = behaviour
    index.write("good.md", sections(*(f"節{part}" for part in range(10))))
    index.write("bad.md", sections("一", "毒", "三"))
    result = index.ingest()
    assert result.stats.failed_chunks == 1
    ((content, reason),) = index.rows(QUARANTINED)
    assert "毒" in content
    assert ("at most 512 tokens, and 毒 has more" in reason) or "dense vector is zero" in reason
    assert index.rows("SELECT source_id FROM documents WHERE indexing_status = 'completed'") == [("docs:good.md",)]
    with index.open() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
    server.always = fake.normally
    assert index.ingest(retry_failed=True).complete
    index.assert_complete()


def test_a_search_says_at_once_that_the_server_is_down_and_finds_words_without_it(
    index: ServedIndex, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    index.write("a.md", sections("休暇", "予算"))
    assert index.ingest().complete
    index.use(fake.SOON, CircuitBreaker(clock=lambda: now[0]))
    with index.open() as pipeline, http_service.running(pipeline) as service:
        key = http_service.new_key(pipeline, "hanako@example.com", "search")
        assert service.hits(key, "休暇の取り方") == ["docs:a.md"] * 2
        server.always = fake.refusing(500)
        warm_up(pipeline)
        assert "500 Internal Server Error" in caplog.text, "the service starts all the same"
        assert service.search(key, "一").status_code == 503
        server.always = fake.hanging
        began = time.monotonic()
        answers = [service.search(key, f"予算{number}") for number in range(5)]
        assert time.monotonic() - began < 5
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].headers["Retry-After"]
        assert "127.0.0.1" not in answers[0].text, "where servers are is for the log"
        assert service.hits(key, "予算", mode="fulltext")
        assert service.hits(key, "予算", mode="sparse")
        server.always = fake.normally
        assert service.search(key, "二").status_code == 503
        now[0] += 10
        assert service.hits(key, "三")


def test_a_dimension_that_the_index_has_is_not_asked_for_and_only_embedding_waits_for_a_dead_server(
    index: ServedIndex, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("patient", "urgent"):
        monkeypatch.setitem(EmbeddingServer.__init__.__kwdefaults__, patience, fake.SOON)

    def open_unset() -> Pipeline:
        settings = openai_settings(server.url, embedding_dimensions=None)
        fields = {name: getattr(settings, name) for name in settings.model_fields_set}
        monkeypatch.setattr(factory, "_loaded", {})  # As a new process.
        pipeline = Pipeline(index.settings(**fields), index.endpoints)
        pipeline.prepare()
        return pipeline

    index.write("a.md", sections("休暇"))
    index.write("gone.md", sections("予算"))
    with open_unset() as pipeline:
        assert ingest(pipeline).complete
    server.stop()
    index.write("b.md", sections("経費"))
    index.delete("gone.md")
    with open_unset() as pipeline, pytest.raises(StoreUnavailableError, match="RAG_EMBEDDING_URL="):
        ingest(pipeline)
    assert index.rows("SELECT source_id, processing_status FROM documents ORDER BY 1") == [
        ("docs:a.md", "completed"),
        ("docs:b.md", "completed"),
    ]
    server.requests.clear()
    server.start()
    with open_unset() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
        assert repair(pipeline, dry_run=True).remaining.consistent
        assert server.requests == []
        server.always = fake.another_dimension
        with pytest.raises(
            StoreUnavailableError,
            match=f"the index has {fake.DIMENSION}: set RAG_EMBEDDING_URL.*generations drop ID",
        ):
            ingest(pipeline)
    server.always = fake.normally
    with open_unset() as pipeline:
        assert ingest(pipeline).complete
    index.assert_complete()


def test_an_empty_index_is_searched_and_checked_without_its_server(
    index: ServedIndex, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "_loaded", {})
    index.write("a.md", sections("休暇"))
    settings = openai_settings(server.url, embedding_dimensions=None)
    fields = {name: getattr(settings, name) for name in settings.model_fields_set}
    with Pipeline(index.settings(**fields), index.endpoints) as pipeline:
        assert search(pipeline, "休暇").hits == [], "not even the tables exist"
        pipeline.prepare()
        assert search(pipeline, "休暇").hits == []
        scan_source(pipeline, pipeline.source("docs"))
        checker = DataConsistencyChecker(pipeline)
        assert len(checker.months()) == 1
        assert checker.check_consistency().consistent
        assert server.requests == []


@pytest.mark.parametrize("endpoint", [fake.EMBED_SPARSE, fake.POOLING])
def test_sparse_vectors_of_a_server_are_written_found_and_left_pending_while_it_is_down(
    index: ServedIndex, server: LoopbackServer, endpoint: str
) -> None:
    with loopback_server() as other:
        index.sparse = {"embedding_sparse_url": other.url + endpoint, "embedding_sparse_model": "acme/sparse-1"}
        index.use(fake.SOON)
        other.always = fake.refusing(500)
        index.write("a.md", sections("休暇", "予算"))
        with pytest.raises(StoreUnavailableError, match="RAG_EMBEDDING_SPARSE_URL="):
            index.ingest()
        assert index.rows(STATUSES) == [("pending",)]
        other.always = fake.refusing_text("毒")
        index.write("bad.md", sections("毒"))
        assert index.ingest().stats.failed_chunks == 1
        ((_, reason),) = index.rows(QUARANTINED)
        assert reason.startswith("the server of the sparse vectors refuses the text: 400")
        other.always = fake.normally
        assert index.ingest(retry_failed=True).complete
        index.assert_complete()
        server.stop()
        with index.open() as pipeline, http_service.running(pipeline) as service:
            key = http_service.new_key(pipeline, "hanako@example.com", "search")
            # By its characters, which are the tokens of this server: as words of BM25 they are not in the documents.
            assert set(service.hits(key, "暇休", mode="sparse")) == {"docs:a.md"}
            other.stop()
            assert service.search(key, "算予", mode="sparse").status_code == 503


@pytest.fixture
def cli(tmp_path: Path, prepared_stores: Stores, server: LoopbackServer) -> CommandLine:
    cli = CommandLine(tmp_path, prepared_stores)
    cli.environment |= {
        "RAG_EMBEDDER": "openai",
        "RAG_VECTORS": "dense,sparse",
        "RAG_EMBEDDING_URL": server.url,
        "RAG_EMBEDDING_MODEL": fake.MODEL,
        "RAG_EMBEDDING_API_KEY": KEY,
        "RAG_EMBEDDING_DIMENSIONS": str(fake.DIMENSION),
    }
    return cli


def stored_text(postgres_url: str) -> str:
    """Every row of every table, as text, those of Dagster included."""
    found = []
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert {schema for schema, _ in tables} >= {"public", "dagster"}
        for schema, table in tables:
            query = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, table))
            found += [text for (text,) in connection.execute(query)]
    return "\n".join(found)


@pytest.mark.slow
def test_the_key_is_nowhere_even_if_the_server_repeats_it(cli: CommandLine, server: LoopbackServer) -> None:
    cli.write("good.md", sections("一"))
    cli.write("bad.md", sections("二", "毒"))
    shown = []

    server.always = fake.refusing(403, f"{KEY} may not")
    done = cli.run("ingest")
    assert done.returncode == 1
    assert "RAG_EMBEDDING_API_KEY" in one_line(done.stderr)
    shown.append(done)

    def echoing(request: fake.Request) -> None:
        if any("毒" in text for text in request.texts):
            request.refuse(422, f"refused for {request.headers['Authorization']}, for {KEY}")
        else:
            fake.normally(request)

    server.always = fake.wanting(KEY, echoing)
    done = cli.run("ingest", "--retry-failed")
    assert done.returncode == 1
    assert "tokens of the embedding server" in done.stdout
    shown.append(done)
    shown += [cli.run("documents", "--failed"), cli.run("search", "一の本文"), cli.run("check")]
    assert "422 Unprocessable" in shown[2].stdout
    assert shown[3].returncode == shown[4].returncode == 0

    written = "".join(
        path.read_text("utf-8", "replace") for path in (cli.folder / "home").rglob("*") if path.is_file()
    )
    stored = stored_text(cli.endpoints.postgres_url)
    assert "422 Unprocessable" in stored
    assert "embedding_tokens" in stored, "in the metadata of the materialization"
    for text in (stored, written, *(f"{done.stdout}{done.stderr}" for done in shown)):
        assert KEY not in text


def test_multi_vectors_are_refused_before_anything_is_done(cli: CommandLine) -> None:
    cli.write("a.md", section("一"))
    done = cli.run("ingest", RAG_VECTORS="")
    assert done.returncode == 1
    assert one_line(done.stderr).endswith("set RAG_VECTORS=dense,sparse")


def test_a_pipeline_without_work_asks_no_server(index: ServedIndex, server: LoopbackServer) -> None:
    index.write("a.md", section("一"))
    assert index.ingest().complete
    server.stop()
    server.requests.clear()
    assert index.ingest().complete
    pipeline: Pipeline
    with index.open() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
    assert server.requests == []
