"""Searches go on while a generation is built, goes live and goes back: none fails, is empty, or mixes two generations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rag_pipeline.embedding import factory
from rag_pipeline.generations import switching
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline_tests.support.generations import WIDE, GenerationIndex
from rag_pipeline_tests.support.http_service import new_key, running
from rag_pipeline_tests.support.index import sections
from rag_pipeline_tests.support.stores import Stores

QUERIES = {"味噌汁": "docs:soup.md", "領域の回収": "docs:vacuum.md", "バックアップ": "docs:backup.md"}
MODES = ("hybrid", "dense", "sparse", "fulltext")
_ROUNDS = 2


@pytest.fixture
def index(tmp_path: Path, prepared_stores: Stores) -> GenerationIndex:
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("vacuum.md", sections("掃除", "領域の回収", "統計"), "2024-01-31")
    index.write("backup.md", sections("バックアップ", "復元"), "2024-02-01")
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    index.ingest()
    return index


class Searches:
    """What searches found, by threads that do nothing else: which chunks of which document, and what went wrong."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.answers: list[tuple[str, frozenset[str]]] = []
        self._stop = threading.Event()

    @contextmanager
    def going_on(self, *searchers: Callable[[str, str], list[tuple[str, str]]]) -> Iterator[None]:
        threads = [threading.Thread(target=self._go_on, args=[ask]) for ask in searchers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _go_on(self, ask: Callable[[str, str], list[tuple[str, str]]]) -> None:
        while not self._stop.is_set():
            for query, wanted in QUERIES.items():
                for mode in MODES:
                    try:
                        hits = ask(query, mode)
                    except Exception as error:
                        self.failures.append(f"{mode} {query}: {error!r}")
                        continue
                    if not hits or hits[0][0] != wanted:
                        self.failures.append(f"{mode} {query}: {hits}")
                    self.answers.append((mode, frozenset(chunk for _, chunk in hits)))


def chunks_of(index: GenerationIndex, schema: str) -> set[str]:
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        return {chunk for (chunk,) in connection.execute(f"SELECT id::text FROM {schema}.document_chunks")}


def exchange_to_and_fro(index: GenerationIndex, **settings: object) -> None:
    """Build the other generation, then exchange it with the first one, several times."""
    index.build(**settings)
    with index.opened() as pipeline:
        for _ in range(_ROUNDS):
            switching.switch(pipeline, 2)
            switching.rollback(pipeline)


def test_no_search_of_a_process_that_goes_on_fails_or_mixes(index: GenerationIndex) -> None:
    searches = Searches()
    with index.opened() as pipeline, index.opened() as other:

        def ask(pipeline: Pipeline) -> Callable[[str, str], list[tuple[str, str]]]:
            def asked(query: str, mode: str) -> list[tuple[str, str]]:
                hits = search(pipeline, query, mode=mode, limit=3).hits  # type: ignore[arg-type]
                return [(hit.source_id, str(hit.chunk_id)) for hit in hits]

            return asked

        with searches.going_on(ask(pipeline), ask(pipeline), ask(other)):
            exchange_to_and_fro(index)
    assert searches.failures == []
    first, second = chunks_of(index, "public"), chunks_of(index, "public_generation_2")
    mixed = [answer for answer in searches.answers if not (answer[1] <= first or answer[1] <= second)]
    assert mixed == []
    # Both were searched, in every mode.
    for generation in (first, second):
        assert {mode for mode, chunks in searches.answers if chunks <= generation} == set(MODES)


def test_no_answer_of_the_service_fails_or_mixes(index: GenerationIndex) -> None:
    searches = Searches()
    with index.opened(search_cache_seconds=60) as pipeline, running(pipeline) as service:
        key = new_key(pipeline, "reader@example.com", "search")

        def ask(query: str, mode: str) -> list[tuple[str, str]]:
            response = service.search(key, query, mode=mode, limit=3)
            assert response.status_code == 200, response.text
            return [(hit["source_id"], hit["chunk_id"]) for hit in response.json()["hits"]]

        with searches.going_on(ask, ask):
            exchange_to_and_fro(index)
    assert searches.failures == []
    first, second = chunks_of(index, "public"), chunks_of(index, "public_generation_2")
    assert [answer for answer in searches.answers if not (answer[1] <= first or answer[1] <= second)] == []
    assert any(chunks <= second for _, chunks in searches.answers)


def test_a_search_that_a_switch_overtakes_begins_again(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.build()
    overtaken = []
    with index.opened() as pipeline, index.opened() as other:
        encode = pipeline.embedder.encode_query

        def overtake(*arguments: object) -> object:
            if not overtaken:
                overtaken.append(True)
                switching.switch(other)
            return encode(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(pipeline.embedder, "encode_query", overtake)
        hits = search(pipeline, "味噌汁").hits
        assert overtaken == [True]
        assert hits[0].source_id == "docs:soup.md"
        assert {str(hit.chunk_id) for hit in hits} <= chunks_of(index, "public")
        with pipeline.stores.database.connection() as connection:
            live = table.live(connection)
        assert live is not None
        assert live.settings["embedder"] == WIDE


def test_a_service_loads_the_embedder_of_an_announced_generation(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_pipeline.service.next_generation import NextGeneration
    from rag_pipeline_tests.support.embedders import CheapEmbedder

    row = index.build()
    embedded: list[tuple[str, str]] = []
    encode = CheapEmbedder.encode_query

    def watched(self: CheapEmbedder, text: str, kinds: Sequence[str], document_frequency: Any = None) -> Any:
        embedded.append((self.fingerprint, text))
        return encode(self, text, kinds, document_frequency)

    monkeypatch.setattr(CheapEmbedder, "encode_query", watched)
    monkeypatch.setattr(factory, "_loaded", {})  # As a new process, which has loaded nothing.
    with index.opened() as pipeline:
        service = NextGeneration(pipeline)
        service.look()
        assert embedded == []
        with pipeline.stores.database.connection() as connection:
            table.announce(connection, row.id)
        service.look()
        assert embedded[-1] == ("wide-96", "to start")
        once = list(embedded)
        service.look()
        assert embedded == once
        # What searches use after the switch is what was loaded.
        switching.switch(pipeline)
        loaded = dict(factory._loaded)
        search(pipeline, "味噌汁", mode="dense")
        assert factory._loaded == loaded
