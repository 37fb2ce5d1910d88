"""An answer of search_cache is the one that a search would give now, whatever happens to the index."""

from __future__ import annotations

import threading
import time

from rag_pipeline.stores.postgres import index_epochs
from rag_pipeline_tests.support.http_service import new_key, running
from rag_pipeline_tests.support.search_index import SearchIndex


def _epoch(index: SearchIndex) -> str:
    with index.pipeline.stores.database.connection() as connection:
        return index_epochs.current(connection)


def test_every_change_that_searches_see_has_an_epoch_of_its_own(index: SearchIndex):
    seen = [_epoch(index)]
    index.write("recipe.md", "# 味噌汁\n\n大根と油揚げを煮る。", "2024-02-15")
    index.ingest(up_to="documents")
    seen.append(_epoch(index))  # Another title would show at once.
    index.ingest(up_to="chunks")
    index.ingest()
    seen.append(_epoch(index))
    index.delete("recipe.md")
    index.ingest(up_to="documents")
    seen.append(_epoch(index))
    index.execute("DELETE FROM documents WHERE source_id = 'docs:vacuum.md'")
    seen.append(_epoch(index))
    assert len(seen) == len(set(seen))
    for _ in range(2):  # The document is still at its source: it comes back.
        index.ingest()
    unchanged = _epoch(index)
    index.ingest()
    assert _epoch(index) == unchanged


def test_an_edit_and_a_deletion_are_never_hidden_by_the_cache(index: SearchIndex):
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")

        def contents() -> list[str]:
            return [hit["content"] for hit in service.search(key, "豆腐").json()["hits"]]

        assert contents() == contents()
        assert any("豆腐とわかめ" in content for content in contents())
        index.write("recipe.md", "# 味噌汁\n\n豆腐となめこを煮る。", "2024-02-15")
        index.ingest()
        assert any("なめこ" in content for content in contents())
        assert not any("わかめ" in content for content in contents())
        index.delete("recipe.md")
        index.ingest(up_to="documents")
        assert not any("なめこ" in content for content in contents())


def test_no_answer_has_a_version_that_was_gone_when_it_was_asked_for(index: SearchIndex):
    """While a document switches versions, several clients ask: an answer is never older than what they have seen."""
    ended = threading.Event()
    wrong: list[str] = []
    committed = [0]

    def ask(number: int) -> None:
        while not ended.is_set():
            least = committed[0]
            answer = service.search(key, "豆腐 鍋", limit=3, mode=("hybrid", "fulltext")[number % 2])
            if answer.status_code != 200:
                wrong.append(answer.text)
                continue
            found = [hit["content"] for hit in answer.json()["hits"] if "鍋 版" in hit["content"]]
            versions = [int(content.rsplit("版", 1)[1].split("。")[0]) for content in found]
            if len(versions) > 1 or any(version < least for version in versions):
                wrong.append(f"{versions} after {least}")

    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        version = 0
        while time.monotonic() < deadline or version < 3:
            version += 1
            index.write("pot.md", f"# 鍋\n\n豆腐 鍋 版{version}。", "2024-02-20")
            index.ingest()
            committed[0] = version
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
