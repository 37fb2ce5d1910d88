from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.language.words import MAX_WORD_CHARS, comparable, words

any_text = st.text(st.characters())  # including surrogates and NUL
japanese = st.text(st.sampled_from("索引検索するのをが東京都サーバー引っ越しＡａ1２ー。、\n _-'ﬁ㍿𠮷é한"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("データベース管理者はバックアップを毎日取得しなければならない", "バックアップ"),
        ("関西国際空港でＰｏｓｔｇｒｅＳＱＬの障害が起きた", "空港"),
        ("関西国際空港でＰｏｓｔｇｒｅＳＱＬの障害が起きた", "postgresql"),
        ("医薬品安全管理責任者", "責任"),
        ("𠮷野家", "𠮷"),
        ("한국어 문서 검색", "검색"),
    ],
)
def test_words_inside_sentences_are_found(text: str, word: str) -> None:
    assert word in words(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("引っ越し", "引越し"),
        ("サーバ", "サーバー"),
        ("ｻｰﾊﾞｰ", "サーバー"),
        ("ＡＢＣ", "abc"),
        ("STRASSE", "straße"),
    ],
)
def test_spellings_of_a_word_are_the_same_word(one: str, other: str) -> None:
    assert words(one) == words(other) != []


def test_grammar_and_symbols_are_not_words() -> None:
    assert words("これはペンです。") == ["此れ", "ペン"]
    assert words("※ 〜 … _ 🚀\n\t") == []


def test_english_words_are_lower_case() -> None:
    assert words("PostgreSQL backups") == ["postgresql", "backups"]


@given(st.one_of(any_text, japanese))
def test_every_word_is_letters_and_digits_in_normal_form(text: str) -> None:
    for word in words(text):
        assert word.isalnum()
        assert len(word) <= MAX_WORD_CHARS
        assert word == unicodedata.normalize("NFKC", word)
        assert word == word.casefold()


@given(any_text)
def test_comparable_text_can_be_encoded_and_is_stable(text: str) -> None:
    found = comparable(text)
    assert "\0" not in found.encode().decode()
    assert comparable(found) == found


@pytest.mark.parametrize("unit", ["障害が起きた。", "障害が起きた\n", "障害 "])
def test_texts_longer_than_the_limit_of_sudachi_lose_nothing(unit: str) -> None:
    text = unit * 20_000
    assert len(text.encode()) > 49_149
    assert words(text).count("障害") == 20_000


def test_a_text_without_boundaries_loses_at_most_one_word_per_slice() -> None:
    assert words("障害𠮷" * 20_000).count("障害") >= 20_000 - 60_000 // 4096


def test_characters_that_expand_are_accepted() -> None:
    assert len(words("㌔ﷺ㍿ " * 10_000)) > 10_000


def test_an_overlong_word_is_left_out() -> None:
    assert words("x" * (MAX_WORD_CHARS + 1) + " 索引") == ["索引"]


def test_threads_get_the_same_words() -> None:
    text = "最新のバックアップから復元する。" * 50
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(words, [text] * 32))
    assert all(each == found[0] for each in found)


@pytest.fixture(scope="module")
def connection(server_endpoints: Endpoints) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_endpoints.postgres_url, autocommit=True) as connection:
        yield connection


@given(text=st.one_of(any_text, japanese))
def test_postgresql_keeps_the_words_unchanged(connection: psycopg.Connection, text: str) -> None:
    found = words(text)
    tokens = connection.execute(
        "SELECT token FROM ts_parse('default', %s) WHERE tokid <> 12", (" ".join(found),)
    ).fetchall()
    assert [token for (token,) in tokens] == found
