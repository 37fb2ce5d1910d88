"""What is loaded ahead, and what is not: a model that nobody needs costs memory."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rag_pipeline.embedding import loading
from rag_pipeline.embedding.bge_m3 import BgeM3Embedder
from rag_pipeline.embedding.loading import LoadingEmbedder, load_ahead
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.errors import ConfigError
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline_tests.support.command_line import CommandLine
from rag_pipeline_tests.support.embedders import CheapEmbedder
from rag_pipeline_tests.support.index import Index, section
from rag_pipeline_tests.support.stores import Stores


class NotedEmbedder(CheapEmbedder):
    """Notes what it was asked to load, and cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[bool] = []
        self.was_asked = threading.Event()

    def load(self, *, for_queries: bool) -> None:
        self.loaded.append(for_queries)
        self.was_asked.set()
        raise ConfigError("it does not work ahead")


@pytest.fixture
def embedder() -> NotedEmbedder:
    return NotedEmbedder()


@pytest.fixture
def index(tmp_path: Path, stores: Stores, embedder: NotedEmbedder) -> Index:
    index = Index(tmp_path, stores)
    index.embedder = embedder
    return index


def test_an_ingest_loads_what_texts_need_if_there_are_new_ones_and_goes_on_if_that_fails(
    index: Index, embedder: NotedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.write("a.md", section("一"))
    assert index.ingest().complete
    assert embedder.was_asked.wait(10)
    assert embedder.loaded == [False]

    calls: list[bool] = []
    monkeypatch.setattr(loading, "load_ahead", lambda _, *, for_queries: calls.append(for_queries))
    assert index.ingest().complete
    index.delete("a.md")
    assert index.ingest(confirm_deletions=True).complete
    assert calls == [], "neither nothing nor a deletion needs a model"
    index.write("b.md", section("二"))
    assert index.ingest().complete
    assert calls == [False]


def test_with_ray_the_run_itself_loads_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(loading, "load_ahead", lambda _, *, for_queries: calls.append(for_queries))
    index.write("a.md", section("一"))
    with index.open(ray_address="127.0.0.1:1", ray_from_chunks=1000, ray_from_documents=1000) as pipeline:
        assert ingest(pipeline).complete
    assert calls == []


def test_a_search_of_the_command_line_loads_ahead_only_what_it_needs(
    tmp_path: Path, prepared_stores: Stores
) -> None:
    cli = CommandLine(tmp_path, prepared_stores)
    cli.write("a.md", section("休暇"))
    cli.json("ingest")
    log = tmp_path / "loaded.log"
    # Python runs it when it starts.
    (tmp_path / "sitecustomize.py").write_text(
        "from rag_pipeline.embedding import loading\n"
        "whole = loading.load_ahead\n"
        "def noted(embedder, *, for_queries):\n"
        f"    open({str(log)!r}, 'a').write(f'{{for_queries}}\\n')\n"
        "    whole(embedder, for_queries=for_queries)\n"
        "loading.load_ahead = noted\n",
        "utf-8",
    )
    assert cli.start("search", "休暇", "--mode", "fulltext", PYTHONPATH=str(tmp_path)).wait() == 0
    assert not log.exists()
    assert cli.start("search", "休暇", "--mode", "hybrid", PYTHONPATH=str(tmp_path)).wait() == 0
    assert log.read_text("utf-8") == "True\n"


def test_embedders_with_a_model_have_it_after_loading(tiny_bge_m3: Path) -> None:
    for embedder in (LocalEmbedder(), BgeM3Embedder(str(tiny_bge_m3))):
        assert isinstance(embedder, LoadingEmbedder)
        assert embedder._loaded is None
        embedder.load(for_queries=True)
        assert embedder._loaded is not None


def test_who_needs_it_waits_for_the_thread_that_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = LocalEmbedder()
    load_model, loads = embedder._load_model, []

    def counted() -> object:
        loads.append(threading.current_thread().name)
        return load_model()

    monkeypatch.setattr(embedder, "_load_model", counted)
    load_ahead(embedder, for_queries=False)
    assert embedder.encode(["a text"], ["dense"])[0].token_count == 2
    assert len(loads) == 1
