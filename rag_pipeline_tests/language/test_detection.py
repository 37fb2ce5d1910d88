from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.language import detection
from rag_pipeline.language.detection import detect_language
from rag_pipeline.language.likely import likely_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("これは日本語の文章です。", "ja"),
        ("テスト", "ja"),
        ("東京都千代田区", "ja"),  # no kana: only Japanese writes both 区 and 東
        ("株式会社山田製作所取締役会議事録", "ja"),
        ("数据库管理系统的设计与实现", "zh"),
        ("資料庫管理系統設計與實現方法", "zh"),
        ("데이터베이스 관리 시스템", "ko"),
        ("The quick brown fox jumps over the lazy dog.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund.", "de"),
        ("Le renard brun saute par-dessus le chien paresseux.", "fr"),
        ("Быстрая коричневая лиса прыгает через ленивую собаку.", "ru"),
        ("人工知能", None),  # Chinese as well as Japanese
        ("OK", None),
        ("2024-01-05 10:00", None),
        ("", None),
    ],
)
def test_language(text: str, language: str | None) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("backup", "en"),
        ("to Sapporo", "en"),
        ("International travel reimbursement policy", "en"),
        ("Milvus collection partition alias", "en"),
        ("latest expense report template", "en"),
        ("Urlaub", "en"),
        ("politica de vacaciones de la empresa", "es"),
        ("Wann werden die Sicherungen gemacht", "de"),
        ("休暇", "ja"),
        ("人工知能", "ja"),
        ("の", "ja"),
        ("Kubernetes の設定", "ja"),
        ("PostgreSQL 設定", "ja"),
        ("味噌汁の作り方", "ja"),
        ("数据库", "zh"),
        ("데이터베이스", "ko"),
        ("2024-01-05", None),
        ("", None),
    ],
)
def test_the_language_of_a_query(query: str, language: str | None) -> None:
    assert likely_language(query) == language


def test_code_and_addresses_do_not_decide() -> None:
    code = "```python\n" + "def connect(server, password): return open_connection(server)\n" * 30 + "```\n"
    assert (
        detect_language(f"# 接続\n\n次のように接続します。\n\n{code}\nhttps://example.com/a/very/long/path")
        == "ja"
    )


def test_chinese_text_with_a_single_kana_is_chinese() -> None:
    assert (
        detect_language("这个品牌的名字叫做鲜の每日，数据库管理系统的设计与实现方法研究，非常受欢迎的牛奶品牌。")
        == "zh"
    )


@given(st.text(max_size=300))
def test_any_text_yields_two_letters_or_none(text: str) -> None:
    for language in (detect_language(text), likely_language(text)):
        assert language is None or (len(language) == 2 and language.isascii() and language.islower())


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("```\nThis is a long comment in English.\n```\n", "ja"),
        ("~~~ text\nThis is a long comment in English.\n~~~~ \n", "ja"),
        ("```\nThis is a long comment in English, which the other fence does not close.\n~~~\n", "en"),
        ("````\nThis is a long comment in English.\n``` not closed\n", "en"),
    ],
)
def test_only_closed_fences_are_code(code: str, language: str) -> None:
    assert detect_language(code + "日本語です。") == language


def test_fences_that_are_never_closed_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "_SAMPLE", 2_000_000)
    detect_language("~~~a\n" * 400_000)  # if each looked for its end, this would be a trillion steps
