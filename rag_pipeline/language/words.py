"""Search words of a text, Japanese first.

One list of words serves both lexical searches: the sparse vectors of the local embedder and PostgreSQL's
`to_tsvector('japanese', ' '.join(words(text)))`. So a word consists of letters and digits only: the default parser
of PostgreSQL keeps such a word as one unchanged token.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

WORDS_VERSION = f"sudachi-core-{version('sudachidict-core')}-a1"
"""Changes whenever the words of a text can change: with the dictionary, or with the rules here (`a1`)."""

MAX_WORD_CHARS = 255
"""Longer runs are not words. At four bytes per character this stays below PostgreSQL's 2,046 bytes per lexeme."""

# SudachiPy rejects 49,149 bytes and more, counted after it rewrites the input. At four bytes per character this
# leaves room for the text to triple.
_SLICE_CHARS = 4096
_CUT_AFTER = ("\n", "。！？!?", " \u3000、,.")

_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_SURROGATES = re.compile("[\ud800-\udfff]")

# Parts of speech that carry grammar, not meaning. A prefix of Sudachi's six levels includes everything below it.
# Symbols (補助記号) are not listed: Sudachi classifies as such what its dictionary does not contain, such as Korean,
# Arabic or 𠮷. Real symbols are dropped because they are not letters.
_DROPPED = [("助詞",), ("助動詞",), ("形状詞", "助動詞語幹"), ("空白",)]

_this_thread = threading.local()
_loading = threading.Lock()


def words(text: str) -> list[str]:
    """Return the search words of a text in reading order, with repetitions; [] if it has none.

    Words are SudachiPy's shortest units in normalised form (引越し and 引っ越し are one word, サーバ and server too), NFKC
    and case-folded, without particles, auxiliaries and symbols. Each is 1 to 255 letters and digits. Any string is
    accepted. Thread-safe.
    """
    tokenizer, is_dropped = _tokenizer()
    found: list[str] = []
    for part in _slices(comparable(text)):
        for morpheme in tokenizer.tokenize(part):
            if not is_dropped(morpheme):
                found += _plain(morpheme.normalized_form())
    return found


def word_spans(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yield where a text has search words: start, end and the words there, in reading order, as `words` returns them.

    Yields nothing for a text whose characters cannot be followed through NFKC: rare mixtures of separate accents.
    """
    places = _places(text)
    if places is None:
        return
    tokenizer, is_dropped = _tokenizer()
    start = 0
    for part in _slices(comparable(text)):
        for morpheme in tokenizer.tokenize(part):
            found = () if is_dropped(morpheme) else _plain(morpheme.normalized_form())
            if found:
                yield places[start + morpheme.begin()][0], places[start + morpheme.end() - 1][1], found
        start += len(part)


def _places(text: str) -> list[tuple[int, int]] | None:
    """Return where in a text each character of its comparable form comes from: start and end."""
    found: list[tuple[int, int]] = []
    pieces: list[str] = []
    start = 0
    for end in range(1, len(text) + 1):
        # An accent or a voicing mark (ﾊﾞ) belongs to the character before it.
        if end < len(text) and unicodedata.combining(unicodedata.normalize("NFKC", text[end])[:1] or " "):
            continue
        pieces.append(comparable(text[start:end]))
        found += [(start, end)] * len(pieces[-1])
        start = end
    return found if "".join(pieces) == comparable(text) else None


def comparable(text: str) -> str:
    """Return the text in a form for comparing, not for showing: NFKC, with spaces for NULs and lone surrogates.

    Native code further down rejects these characters, or even truncates the text at them.
    """
    return _SURROGATES.sub(" ", unicodedata.normalize("NFKC", text)).replace("\0", " ")


@lru_cache(maxsize=65_536)
def _plain(form: str) -> tuple[str, ...]:
    """Return the runs of letters and digits in a normalised form; forms such as `C++` or `3.14` contain more."""
    form = unicodedata.normalize("NFKC", form.casefold())
    return tuple(word for word in _LETTERS_AND_DIGITS.findall(form) if len(word) <= MAX_WORD_CHARS)


def _slices(text: str) -> Iterator[str]:
    """Yield the text in parts that Sudachi accepts, cut after a line, else after a sentence, else after a word."""
    start = 0
    while len(text) - start > _SLICE_CHARS:
        window = text[start : start + _SLICE_CHARS]
        ends = (max(map(window.rfind, marks)) + 1 for marks in _CUT_AFTER)
        length = next(filter(None, ends), _SLICE_CHARS)
        yield text[start : start + length]
        start += length
    yield text[start:]


def _tokenizer() -> tuple[Any, Callable[[Any], bool]]:
    """Return the tokenizer of this thread and the test for words to drop. Threads must not share a tokenizer."""
    if not hasattr(_this_thread, "tokenizer"):
        from sudachipy import SplitMode

        with _loading:  # the dictionary is shared and loaded once
            dictionary, is_dropped = _dictionary()
        # The shortest units (A): a search for 責任者 or 空港 must find 管理責任者 and 関西国際空港, each of which is one
        # word in the longer units. Queries are cut the same way, so a compound still ranks by all its parts.
        _this_thread.tokenizer = dictionary.tokenizer(mode=SplitMode.A), is_dropped
    return _this_thread.tokenizer


@cache
def _dictionary() -> tuple[Any, Callable[[Any], bool]]:
    from sudachipy import Dictionary

    dictionary = Dictionary(dict="core")
    return dictionary, dictionary.pos_matcher(_DROPPED)
