from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.language.characters import split_characters


@pytest.mark.parametrize(
    "characters",
    [
        ["か\u3099", "ｶﾞ", "葛\U000e0100", "漢"],
        ["\u1112\u1161\u11ab", "\u1100\u1173\u11af", "한"],
        ["क्ष", "त्रि", "य"],
        ["ที่", "นี่", "กำ"],
        ["🇯🇵", "🇫🇷", "🇩"],
        ["👨\u200d👩\u200d👧", "👩🏽\u200d💻", "❤\ufe0f\u200d🔥", "1\ufe0f\u20e3"],
        ["a", "\r\n", "\n", "\r", "b"],
        ["a\u200d", "b"],
        ["\u0301", "e\u0301"],
        [],
    ],
    ids=["Japanese", "jamo", "Devanagari", "Thai", "flags", "emoji", "line ends", "joiner", "no base", "empty"],
)
def test_characters_stay_whole(characters: list[str]) -> None:
    assert list(split_characters("".join(characters))) == characters


@pytest.mark.parametrize("mark", ["\u0301", "\u200d", "\ufe0f", "🏽"])
def test_a_cluster_beyond_the_stream_safe_limit_is_cut(mark: str) -> None:
    assert [len(part) for part in split_characters("e" + mark * 99 + "x")] == [31, 31, 31, 7, 1]


@given(
    st.text(st.sampled_from("a\u0301\u200d\ufe0f🏽👩🇯🇵\u1112\u1161\u11abक्षที่ำ\r\n\ud800"))
    | st.text(st.characters())
)
def test_nothing_is_lost(text: str) -> None:
    characters = list(split_characters(text))
    assert "".join(characters) == text
    assert all(1 <= len(character) <= 31 for character in characters)


def test_time_is_linear_in_the_number_of_flags() -> None:
    started = time.monotonic()
    assert sum(1 for _ in split_characters("🇯🇵" * 100_000)) == 100_000
    assert time.monotonic() - started < 20  # `\X` alone takes minutes
