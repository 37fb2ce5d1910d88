from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rag_pipeline.documents.parsing import markdown as module
from rag_pipeline.documents.parsing.markdown import created_at, read_markdown, split_front_matter


def test_front_matter() -> None:
    text = (
        "---\ntitle: 導入 ガイド\ndate: 2024-01-05T09:00:00+09:00\nauthor: [山田, 佐藤]\nLang: ja-JP\n"
        "category: manual\ntags: [a, 'b c', a]\n---\n\n# 本文\n"
    )
    document = read_markdown(text)
    assert document.title == "導入 ガイド"
    assert created_at(text) == datetime(2024, 1, 5, tzinfo=UTC)
    assert document.author == "山田, 佐藤"
    assert document.language == "ja-JP"
    assert document.category == "manual"
    assert document.tags == ("a", "b c")
    assert document.markdown == "\n# 本文\n"
    assert document.warnings == ()


@pytest.mark.parametrize("tags", ["a, b、#c", "[a, b, c]", "\n  - a\n  - b\n  - c"])
def test_tags_as_a_list_or_with_commas(tags: str) -> None:
    assert read_markdown(f"---\ntags: {tags}\n---\n").tags == ("a", "b", "c")


def test_values_stay_as_written() -> None:
    text = "---\ntitle: 1.10\nlang: no\ndate: 2024-02-30\n---\ntext"
    document = read_markdown(text)
    assert (document.title, document.language, created_at(text)) == ("1.10", "no", None)


@pytest.mark.parametrize(
    "front_matter",
    [
        "title: Guide: part 1",
        'title: "Guide: part 1"\nauthor: @me',
        "title: 'Guide: part 1'\ntags: [a",
        "title: Guide: part 1\n" + "[" * 5000,
    ],
)
def test_broken_yaml_is_read_line_by_line_with_a_warning(front_matter: str) -> None:
    text = f"---\n{front_matter}\ndate: 2024-01-05\n---\ntext"
    document = read_markdown(text)
    assert document.title == "Guide: part 1"
    assert created_at(text) == datetime(2024, 1, 5, tzinfo=UTC)
    assert document.markdown == "text"
    assert "not valid YAML" in document.warnings[0]


def test_exponential_aliases_are_harmless() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert read_markdown("---\n" + "\n".join(lines) + "\ntags: *i\ntitle: t\n---\n").title == "t"


@pytest.mark.parametrize(
    "text",
    [
        "---\nno end: here\n",
        "---\njust a paragraph\n---\n",
        "text\n---\ntitle: x\n---\n",
        "---\n- a\n- b: c\n---\n",
    ],
)
def test_what_is_not_front_matter_is_content(text: str) -> None:
    document = read_markdown(text)
    assert (document.markdown, document.title) == (text, None)


def test_keys_are_found_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRONT_MATTER", 10_000_000)
    letters = "a" * 5_000_000  # if each letter could begin a key, this would be a trillion steps
    text = f"---\n{letters}\n---\ntext"
    assert split_front_matter(text) == ({}, text, ())
