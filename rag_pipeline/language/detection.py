"""Detection of a text's language: Japanese, Chinese and Korean by their scripts, others by `py3langid`.

Scripts decide first because they are almost certain even for the few words of a title, where a statistical model
guesses, and because a Japanese manual full of English code is still Japanese.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from threading import Lock

_SAMPLE = 20_000
"""Characters to examine. More cost time without changing the result."""
_MIN_LETTERS = 20
"""Fewer letters of an alphabet are too few for a guess."""
_MIN_HAN = 12
"""Fewer characters that Chinese and Japanese share are too few to decide between them."""
_WEIGHT = 3
"""Letters of an alphabet that carry about as much text as one kana, kanji or hangul syllable."""

_FENCE_END = re.compile(r"(```|~~~)[`~]*[ \t]*")
_LINK = r"(?:https?://|www\.)[^\s\u3000-\u30ff\u4e00-\u9fff]+"
_MAIL = r"[^\s@]{1,64}@[\w.-]{1,255}"
_TAG = r"<[^<>\n]{1,200}>"
_ADDRESS = re.compile(f"{_LINK}|{_MAIL}|{_TAG}")
_ADDRESS_WITHOUT_AT = re.compile(f"{_LINK}|{_TAG}")
"""The same for a text without an `@`, which the other looks for 64 characters ahead of each character."""
KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]+")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+")
LETTERS = re.compile(r"[^\W\d_]+")

_lock = Lock()


def detect_language(text: str) -> str | None:
    """Return the language as two lower-case letters (ISO 639-1), or None if the text is too short to decide."""
    sample = without_code_and_addresses(text)
    kana, han, hangul, letters = (_count(kind, sample) for kind in (KANA, HAN, HANGUL, LETTERS))
    others = letters - kana - han - hangul

    east_asian = kana + han + hangul
    if east_asian * _WEIGHT >= others and east_asian > 1:
        return _east_asian(sample, kana, han, hangul)
    if others < _MIN_LETTERS:
        return None
    language = _classify(sample)
    return language if len(language) == 2 else None


def without_code_and_addresses(text: str) -> str:
    """Return what a text says in its language, as far as that is examined."""
    sample = _without_code(text[:_SAMPLE])
    return (_ADDRESS if "@" in sample else _ADDRESS_WITHOUT_AT).sub(" ", sample)


def likelihoods(text: str) -> dict[str, float]:
    """Return how likely a text is in each language that the statistical model knows, as logarithms."""
    import py3langid

    with _lock:  # the first call loads the model into a global
        return dict(py3langid.rank(text))


def _count(runs: re.Pattern[str], text: str) -> int:
    """Return the number of characters in these runs."""
    return sum(map(len, runs.findall(text)))


def _without_code(text: str) -> str:
    """Return the text without its fenced blocks of code. A fence that is never closed opens none."""
    lines = text.split("\n")
    last_ends = {match[1]: number for number, line in enumerate(lines) if (match := _FENCE_END.fullmatch(line))}
    kept: list[str] = []
    fence = None
    for number, line in enumerate(lines):
        if fence is None:
            if last_ends.get(line[:3], -1) > number:
                fence = line[:3]
                line = " "
            kept.append(line)
        elif (match := _FENCE_END.fullmatch(line)) and match[1] == fence:
            fence = None
    return "\n".join(kept)


def _east_asian(sample: str, kana: int, han: int, hangul: int) -> str | None:
    if hangul > kana + han // 4:
        return "ko"
    if kana * 20 >= kana + han:  # Chinese text sometimes borrows a の; in Japanese a third or more is kana
        return "ja"
    return _kanji_only("".join(HAN.findall(sample)))


def _kanji_only(characters: str) -> str | None:
    """Decide between Japanese and Chinese without kana, as in names, addresses and headings, by character sets.

    Japan simplified some characters (実, 区) and kept others (設, 東). A text with both can be written in Japan's
    character set, but neither in the mainland's GB 2312 nor in Taiwan's Big5.
    """
    chinese = _can_write(characters, "gb2312") or _can_write(characters, "big5")
    if _can_write(characters, "cp932"):
        if not chinese:
            return "ja"
        return "zh" if len(characters) >= _MIN_HAN else None
    return "zh" if chinese or len(characters) >= _MIN_HAN else None


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    import py3langid

    return py3langid.classify


def _classify(text: str) -> str:
    with _lock:  # the first call loads the model into a global
        return _classifier()(text)[0]
