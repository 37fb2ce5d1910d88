from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.language.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["今日は晴れ。", "明日は雨！", "本当？", "はい。"],
        ["「はい。」と彼は答えた。", "「いいえ。」", "沈黙が続いた。"],
        ["（詳しくは次を参照。）", "次に進みます。"],
        ["ﾃｽﾄです｡", "次です｡"],
        ["円周率は３．１４である．", "次に進む．"],
        ["すごい!", "次はYahoo!ニュースです。"],
        ["本当！？", "まさか。"],
        ["見出し\n", "本文はここから、\n次の行まで続く。"],
        ["一行目\n\n", "二段落目"],
        ["It costs 3.14 dollars. ", "Version 2.0 is out! ", "Really? ", "Yes."],
        ["Dr. Smith met J. Doe of Acme Inc. in Tokyo. ", "They talked, e.g. about tea. ", "Then they left."],
        ["See https://example.com/a.html?x=1.2 for more. ", "Thanks."],
        ['He said "Go." ', "She went."],
        ["A line of English prose that was wrapped by an editor at\nColumn fifty. ", "Next."],
        ["1. First item\n", "2. Second item"],
        ["- a\n", "- b"],
        ["日本語とEnglishの混在です。", "This is fine. ", "終わり"],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


@given(st.text(st.sampled_from("あ漢ア。．！？!?.「」』）)\"' \n　a1Bz,、-")) | st.text())
def test_nothing_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


def test_blank_text_is_not_a_sentence() -> None:
    assert split_sentences("") == []
    assert split_sentences("終わり。\n\n") == ["終わり。\n\n"]
