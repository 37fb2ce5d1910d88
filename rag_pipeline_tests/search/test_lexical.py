from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.language.words import words
from rag_pipeline.search.lexical import coverage, lexical_weight, same_script
from rag_pipeline.stores.postgres.search_queries import FoundChunk

PAGE = FoundChunk(
    id=UUID(int=1),
    document_id=UUID(int=2),
    document_created_at=datetime(2024, 1, 1, tzinfo=UTC),
    source_type="filesystem",
    source_id="docs:a.md",
    source_url=None,
    title="統計",
    language="ja",
    position=0,
    section_title="統計",
    content="統計は pg_stat_activity で見る。the と of もここにある。",
    multi_vector_count=1,
)


@pytest.mark.parametrize(
    ("query", "languages", "share"),
    [
        ("統計", ["ja", "ja", "zh", "en"], 0.75),
        ("GitLab の設定", ["ja"], 1),
        ("statistics", ["en", "fr", "ja", None], 0.75),
        ("통계", ["ko"], 1),
        ("statistics", [], 0),
    ],
)
def test_the_share_of_candidates_in_the_querys_script(query, languages, share):
    assert same_script(query, languages) == share


def test_words_have_full_weight_if_query_and_documents_share_a_script():
    assert lexical_weight("天気 予報", {"天気": 5.0, "予報": 5.0}, [PAGE], [PAGE]) == 1


def test_an_identifier_has_full_weight_in_any_script():
    idf = dict.fromkeys(words("pg_stat_activity"), 6.0)
    assert lexical_weight("pg_stat_activity", idf, [PAGE], [PAGE]) == 1


def test_the_words_of_a_question_in_another_script_have_almost_no_weight():
    query = "the number of open sessions"
    idf = {word: 2.0 if word in ("ザ", "オブ") else 8.0 for word in words(query)}
    assert lexical_weight(query, idf, [PAGE], [PAGE]) < 0.05
    english = replace(PAGE, language="en")
    assert lexical_weight(query, idf, [english, PAGE], [PAGE]) == 0.5


@given(
    st.dictionaries(st.sampled_from(["東京", "大阪", "京都", "tokyo", "osaka"]), st.floats(0, 20)),
    st.lists(st.text(max_size=20)),
)
def test_coverage_is_a_share(idf, texts):
    assert 0 <= coverage(idf, texts) <= 1
    if sum(idf.values()) > 0:
        assert coverage(idf, [*texts, "東京 大阪 京都 tokyo osaka"]) == pytest.approx(1)
