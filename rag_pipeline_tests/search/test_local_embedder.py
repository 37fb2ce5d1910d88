"""Search with the default embedder: real vectors, real words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.search import Mode, search
from rag_pipeline_tests.support.search_index import SearchIndex, new_index

DOCUMENTS = {
    "soup.md": "# 味噌汁の作り方\n\n昆布と鰹節で出汁を取る。豆腐とわかめを加えて温め、火を止めてから味噌を溶く。",
    "stock.md": "# 棚卸しの手順\n\n在庫管理責任者は毎月末に倉庫の品物を数え、帳簿の数と合わなければ報告する。",
    "vacuum.md": "# 領域の回収\n\npg_stat_user_tables で死んだ行の数を見て、多ければ VACUUM を実行する。",
    "make.md": "# make の使い方\n\n`make all` と打つ。How do I make it? と聞かれたら `make help` を見せる。",
    "train.md": "# Night trains\n\nThe sleeper to Sapporo leaves Ueno station every evening at seven o'clock.",
    "leave.md": "# Parental leave\n\nEmployees may stay at home for up to one year after the birth of a child.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    with new_index(tmp_path_factory.mktemp("local"), server_endpoints, "local") as index:
        index.pipeline.prepare()
        for name, text in DOCUMENTS.items():
            index.write(name, text)
        index.ingest()
        yield index


@pytest.mark.parametrize(
    ("query", "mode", "name"),
    [
        # words inside a sentence, and inside a compound
        ("わかめ", "fulltext", "soup.md"),
        ("責任者", "fulltext", "stock.md"),
        ("責任者", "sparse", "stock.md"),
        ("責任者", "hybrid", "stock.md"),
        # another spelling of the same word
        ("ワカメ", "sparse", "soup.md"),
        ("棚おろし", "hybrid", "stock.md"),
        # an identifier, among documents in another script
        ("pg_stat_user_tables", "hybrid", "vacuum.md"),
        # in meaning, without the words
        ("商品の残りがいくつあるか調べる", "hybrid", "stock.md"),
        ("朝ごはんのスープ", "dense", "soup.md"),
        ("overnight railway journey", "hybrid", "train.md"),
        ("time off for new mothers and fathers", "hybrid", "leave.md"),
        # across languages, past a document that has more of the query's words
        ("How do I make a soup with tofu and seaweed?", "hybrid", "soup.md"),
        ("子供が生まれたときの休暇", "hybrid", "leave.md"),
    ],
)
def test_search_finds_by_words_and_by_meaning(index: SearchIndex, query: str, mode: Mode, name: str):
    found = search(index.pipeline, query, mode=mode).hits
    assert found[0].source_id == f"docs:{name}"


def test_an_english_question_finds_the_wrong_japanese_page_by_words_alone(index: SearchIndex):
    """The lexical weight keeps this from happening in the test above."""
    found = search(index.pipeline, "How do I make a soup with tofu and seaweed?", mode="sparse").hits
    assert found[0].source_id == "docs:make.md"
