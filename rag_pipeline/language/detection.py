"""Which language a text is in: Japanese, Chinese and Korean by their scripts, the rest by `py3langid`.

Scripts decide first because they are near certain and hold for the few words of a title, where a statistical
model guesses; and because a Japanese manual full of English code is still Japanese.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from threading import Lock

_SAMPLE = 20_000
"""Characters that are looked at; more changes no answer and costs time."""
_MIN_LETTERS = 20
"""Letters below which a text in an alphabet is not guessed at."""
_MIN_HAN = 12
"""Characters that Chinese and Japanese share, below which the two are not told apart."""
_WEIGHT = 3
"""One kana, kanji or hangul syllable says about as much as this many letters of an alphabet."""

_CODE = re.compile(r"^(```|~~~).*?^\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(
    r"(?:https?://|www\.)[^\s\u3000-\u30ff\u4e00-\u9fff]+|[^\s@]{1,64}@[\w.-]{1,255}|<[^<>\n]{1,200}>"
)
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
_LETTER = re.compile(r"[^\W\d_]")

_lock = Lock()


def detect_language(text: str) -> str | None:
    """The language as two lower-case letters (ISO 639-1), or None where there is too little text to tell."""
    sample = _ADDRESS.sub(" ", _CODE.sub(" ", text[:_SAMPLE]))
    kana = len(_KANA.findall(sample))
    han = len(_HAN.findall(sample))
    hangul = len(_HANGUL.findall(sample))
    others = len(_LETTER.findall(sample)) - kana - han - hangul

    east_asian = kana + han + hangul
    if east_asian * _WEIGHT >= others and east_asian > 1:
        return _east_asian(sample, kana, han, hangul)
    if others < _MIN_LETTERS:
        return None
    language = _classify(sample)
    return language if len(language) == 2 else None


def _east_asian(sample: str, kana: int, han: int, hangul: int) -> str | None:
    if hangul > kana + han // 4:
        return "ko"
    if kana * 20 >= kana + han:  # Chinese text borrows a の now and then; Japanese is a third kana and more
        return "ja"
    return _kanji_only("".join(_HAN.findall(sample)))


def _kanji_only(characters: str) -> str | None:
    """Names, addresses and headings in Japanese hold no kana; the national character sets tell whose they are.

    Japan simplified some characters (実, 区) and kept others (設, 東): text that mixes both can be written in
    Japan's set, but neither in the mainland's GB 2312 nor in Taiwan's Big5.
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
