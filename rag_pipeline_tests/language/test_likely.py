from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.language.likely import likely_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Budget approved.", "en"),
        ("Call Bob tomorrow", "en"),
        ("OK", "en"),
        ("Meeting notes for Monday", "en"),
        ("Quarterly sales report 2024", "en"),  # the statistical model says Spanish
        ("Milvus collection partition alias", "en"),
        ("Bonjour tout le monde", "fr"),
        ("weiße Straße", "de"),
        ("Der Bericht ist fertig", "de"),
        ("Привет", "ru"),
        ("Το σπίτι", "el"),
        ("東", "ja"),
        ("人工知能", "ja"),
        ("ﾃｽﾄ", "ja"),
        ("a 山", "ja"),
        ("数据库管理系统的设计与实现", "zh"),
        ("한", "ko"),
        ("2024-01-05 10:00", None),
        ("https://example.com/about", None),
        ("", None),
    ],
)
def test_few_words(text: str, language: str | None) -> None:
    assert likely_language(text) == language


@given(st.text(max_size=300))
def test_any_text_with_letters_has_a_language_that_fits_the_column(text: str) -> None:
    language = likely_language(text)
    assert language is None or (len(language) == 2 and language.isascii() and language.islower())
