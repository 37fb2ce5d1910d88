from __future__ import annotations

from collections.abc import Sequence
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding.bm25 import AVERAGE_WORDS, K1, B, document_vector, query_vector, term_id

some_words = st.lists(
    st.sampled_from(["索引", "検索", "文書", "断片", "障害", "復元", "backup", "index"]), max_size=60
)


@given(document=some_words, query=some_words, others=st.lists(some_words, max_size=8))
def test_the_inner_product_is_the_bm25_score(
    document: list[str], query: list[str], others: list[list[str]]
) -> None:
    corpus = [document, *others]

    def document_frequency(asked: Sequence[str]) -> tuple[int, dict[str, int]]:
        return len(corpus), {word: sum(word in each for each in corpus) for word in asked}

    expected = 0.0
    for word in set(query):
        tf, holding = document.count(word), sum(word in each for each in corpus)
        idf = log(1 + (len(corpus) - holding + 0.5) / (holding + 0.5))
        norm = K1 * (1 - B + B * len(document) / AVERAGE_WORDS)
        expected += query.count(word) * idf * tf * (K1 + 1) / (tf + norm)

    left, right = query_vector(query, document_frequency), document_vector(document)
    assert sum(weight * right.get(term, 0.0) for term, weight in left.items()) == pytest.approx(expected, rel=1e-5)


def test_without_statistics_a_query_word_is_weighted_by_its_count() -> None:
    assert query_vector(["索引", "索引", "検索"]) == {term_id("索引"): 2.0, term_id("検索"): 1.0}


def test_outdated_statistics_are_accepted() -> None:
    (weight,) = query_vector(["索引"], lambda _: (3, {"索引": 10})).values()
    assert weight > 0


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_term_ids_are_in_the_range_of_milvus(word: str) -> None:
    assert 0 <= term_id(word) < 2**32 - 1


def test_term_ids_never_change() -> None:
    assert term_id("索引") == 1466638937  # stored vectors contain it
