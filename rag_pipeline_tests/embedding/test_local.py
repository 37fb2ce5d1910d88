from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.local import MAX_SENTENCE_VECTORS, LocalEmbedder, sentence_spans
from rag_pipeline.embedding.validation import validate
from rag_pipeline.language.words import words
from rag_pipeline.settings import VECTOR_KINDS

BACKUP = "PostgreSQLのバックアップは毎日取得し、別の場所に保管する。障害が起きたときは最新のものから復元する。"
LUNCH = "社員食堂の昼食は十一時半から提供される。金曜日の献立はカレーライスである。"
TEXTS = [BACKUP, LUNCH, "Search results are cached for an hour.", "はい。", ""]


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


def test_vectors_are_valid(embedder: LocalEmbedder) -> None:
    found = validate(embedder.encode(TEXTS, VECTOR_KINDS), embedder.dimension, VECTOR_KINDS)
    assert found[0].dense is not None
    assert found[0].dense.shape == (384,)
    assert found[0].multi is not None
    assert found[0].multi.shape == (2, 384)


def test_a_text_has_the_same_vectors_in_any_batch(embedder: LocalEmbedder) -> None:
    together = embedder.encode([*TEXTS, BACKUP * 8, *TEXTS], VECTOR_KINDS)[: len(TEXTS)]
    for text, of_batch in zip(TEXTS, together, strict=True):
        alone = embedder.encode([text], VECTOR_KINDS)[0]
        np.testing.assert_array_equal(alone.dense, of_batch.dense)
        np.testing.assert_array_equal(alone.multi, of_batch.multi)
        assert alone.sparse == of_batch.sparse


def test_every_kind_finds_the_text_that_answers_a_japanese_question(embedder: LocalEmbedder) -> None:
    backup, lunch = embedder.encode([BACKUP, LUNCH], VECTOR_KINDS)
    question = embedder.encode_query("データベースを障害から復元する手順", VECTOR_KINDS)
    assert question.dense @ backup.dense > question.dense @ lunch.dense
    assert (backup.multi @ question.multi.T).max() > (lunch.multi @ question.multi.T).max()
    scores = [
        sum(weight * text.sparse.get(term, 0) for term, weight in question.sparse.items())
        for text in (backup, lunch)
    ]
    assert scores[0] > scores[1]


def test_a_question_in_english_finds_a_japanese_text(embedder: LocalEmbedder) -> None:
    backup, lunch = embedder.encode([BACKUP, LUNCH], ["dense"])
    question = embedder.encode_query("How do I restore the database?", ["dense"])
    assert question.dense @ backup.dense > question.dense @ lunch.dense


def test_a_row_of_multi_is_the_vector_of_the_sentence_at_its_position(embedder: LocalEmbedder) -> None:
    (whole,) = embedder.encode([BACKUP], ["multi"])
    second = BACKUP.index("障害")
    assert whole.multi_positions == [0, second]
    (alone,) = embedder.encode([BACKUP[second:]], ["dense"])
    np.testing.assert_array_equal(whole.multi[1], alone.dense)


def test_the_sparse_weights_of_a_query_use_the_statistics(embedder: LocalEmbedder) -> None:
    found = embedder.encode_query("障害と復元", ["sparse"], lambda _: (100, {"障害": 90, "復元": 1}))
    assert found.sparse[bm25.term_id("復元")] > found.sparse[bm25.term_id("障害")]
    assert found.dense is None


def test_symbols_have_a_dense_vector_and_no_words(embedder: LocalEmbedder) -> None:
    for found in embedder.encode(["※※※", " \n", ""], VECTOR_KINDS):
        assert found.dense is not None
        assert np.isfinite(found.dense).all()
        assert found.sparse == {}
        assert len(found.multi) == 1


def test_characters_that_native_code_rejects_truncate_nothing(embedder: LocalEmbedder) -> None:
    with_nul, without, _surrogate = embedder.encode([f"はい\0{BACKUP}", f"はい {BACKUP}", "x\ud800y"], ["dense"])
    np.testing.assert_array_equal(with_nul.dense, without.dense)


def test_a_character_that_expands_to_eighteen_is_counted(embedder: LocalEmbedder) -> None:
    assert embedder.count_tokens("ﷺ" * 20_000) > 20_000


def test_tokens_added_by_the_model_are_not_counted(embedder: LocalEmbedder) -> None:
    assert embedder.count_tokens("") == 0
    assert embedder.count_tokens("a") == 1
    assert 20 < embedder.count_tokens(BACKUP) < len(BACKUP)
    assert embedder.encode([BACKUP], ["sparse"])[0].token_count == embedder.count_tokens(BACKUP)


def test_no_texts_yield_no_vectors(embedder: LocalEmbedder) -> None:
    assert embedder.encode([], VECTOR_KINDS) == []


def test_several_threads_can_use_it(embedder: LocalEmbedder) -> None:
    expected = embedder.encode([BACKUP], ["dense"])[0].dense
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: embedder.encode([BACKUP], ["dense"])[0].dense, range(8)))
    assert all(np.array_equal(vector, expected) for vector in found)


def _encode_in_child(embedder: LocalEmbedder, answers: object) -> None:
    answers.put([found.dense for found in embedder.encode(TEXTS, ["dense"])])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_gets_the_same_vectors(embedder: LocalEmbedder) -> None:
    expected = [found.dense for found in embedder.encode(TEXTS, ["dense"])]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_encode_in_child, args=(embedder, answers))
    child.start()
    child.join(30)
    try:
        assert child.exitcode == 0
        np.testing.assert_array_equal(answers.get(), expected)
    finally:
        child.kill()


@given(st.text(st.sampled_from("障害が起きた。復元する！OK. \n\t「」A1"), max_size=400))
def test_sentence_spans_cover_every_word_once(text: str) -> None:
    spans = sentence_spans(text)
    assert 1 <= len(spans) <= MAX_SENTENCE_VECTORS
    covered = "".join(text[start:end] for start, end in spans)
    assert "".join(covered.split()) == "".join(text.split())
    assert spans == sorted(spans)


def test_short_sentences_join_the_next_and_long_texts_get_64_rows() -> None:
    text = "はい。" + BACKUP
    assert text[slice(*sentence_spans(text)[0])].startswith("はい。PostgreSQL")
    many = "".join(f"第{number}章では索引の一貫性について述べる。" for number in range(200))
    assert 40 <= len(sentence_spans(many)) <= MAX_SENTENCE_VECTORS


def test_the_sparse_vector_is_that_of_the_words_of_the_text(embedder: LocalEmbedder) -> None:
    (found,) = embedder.encode([BACKUP], ["sparse"])
    assert found.sparse == bm25.document_vector(words(BACKUP))
