"""The words of a text as search sees them, Japanese first.

One list serves both lexical searches: the sparse vectors of the local embedder and PostgreSQL's
`to_tsvector('japanese', ' '.join(words(text)))`. So each word is letters and digits alone: the default parser of
PostgreSQL takes such a word for one token and changes nothing in it.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

WORDS_VERSION = f"sudachi-core-{version('sudachidict-core')}-a1"
"""Changes whenever the same text may give other words: with the dictionary, or with the rules here (`a1`)."""

MAX_WORD_CHARS = 255
"""Longer runs are no words. At four bytes a character this stays under the 2,046 bytes of a PostgreSQL lexeme."""

# SudachiPy refuses 49,149 bytes and more, counted after its own rewriting of the input. At four bytes a character
# this leaves room for a rewriting that triples the text.
_SLICE_CHARS = 4096
_CUT_AFTER = ("\n", "。！？!?", " \u3000、,.")

_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_SURROGATES = re.compile("[\ud800-\udfff]")

# Parts of speech that carry grammar and not meaning; a prefix of Sudachi's six levels names all below it. Symbols
# (補助記号) are not among them: Sudachi puts there whatever its dictionary does not know, such as Korean, Arabic or
# 𠮷. True symbols fall out because they are no letters.
_DROPPED = [("助詞",), ("助動詞",), ("形状詞", "助動詞語幹"), ("空白",)]

_this_thread = threading.local()
_loading = threading.Lock()


def words(text: str) -> list[str]:
    """The search words of a text, in reading order, repeated as often as they occur.

    Words are SudachiPy's shortest units in their normalised form (引越し and 引っ越し are one word, サーバ and
    server too), NFKC, case-folded, without particles, auxiliaries and symbols. Each is 1 to 255 letters and
    digits. A text without a word gives []. Any string is taken; safe to call from several threads.
    """
    tokenizer, is_dropped = _tokenizer()
    found: list[str] = []
    for part in _slices(comparable(text)):
        for morpheme in tokenizer.tokenize(part):
            if not is_dropped(morpheme):
                found += _plain(morpheme.normalized_form())
    return found


def comparable(text: str) -> str:
    """The text as it is compared, never as it is shown: NFKC, with a space for a NUL or a lone surrogate.

    Both of those are refused, or worse cut the text short, further down in native code.
    """
    return _SURROGATES.sub(" ", unicodedata.normalize("NFKC", text)).replace("\0", " ")


def _plain(form: str) -> list[str]:
    """The runs of letters and digits in a normalised form; dictionary forms such as `C++` or `3.14` hold more."""
    form = unicodedata.normalize("NFKC", form.casefold())
    return [word for word in _LETTERS_AND_DIGITS.findall(form) if len(word) <= MAX_WORD_CHARS]


def _slices(text: str) -> Iterator[str]:
    """The text in parts that Sudachi takes, cut after a line, else after a sentence, else after a word."""
    start = 0
    while len(text) - start > _SLICE_CHARS:
        window = text[start : start + _SLICE_CHARS]
        ends = (max(map(window.rfind, marks)) + 1 for marks in _CUT_AFTER)
        length = next(filter(None, ends), _SLICE_CHARS)
        yield text[start : start + length]
        start += length
    yield text[start:]


def _tokenizer() -> tuple[Any, Callable[[Any], bool]]:
    """This thread's tokenizer and the test for words to drop: a tokenizer may not be shared between threads."""
    if not hasattr(_this_thread, "tokenizer"):
        from sudachipy import SplitMode

        with _loading:  # the dictionary is shared, and loaded once
            dictionary, is_dropped = _dictionary()
        # The shortest units (A): a search for 責任者 or 空港 shall find 管理責任者 and 関西国際空港, which the
        # longer units make one word. A query is cut the same way, so a compound still ranks by all its parts.
        _this_thread.tokenizer = dictionary.tokenizer(mode=SplitMode.A), is_dropped
    return _this_thread.tokenizer


@cache
def _dictionary() -> tuple[Any, Callable[[Any], bool]]:
    from sudachipy import Dictionary

    dictionary = Dictionary(dict="core")
    return dictionary, dictionary.pos_matcher(_DROPPED)
