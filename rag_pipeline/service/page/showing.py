"""How documents are shown. They are hostile: whatever is in one is text, and can neither act nor disguise itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from itertools import groupby
from operator import itemgetter
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rag_pipeline.language.words import word_spans, words

_DISGUISES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Controls, and marks that turn the direction of what follows."""
_GRAMMAR = re.compile("[\u3041-\u3096]{1,2}")
"""The い of 止まっている is a word to the analyser, and nothing to a reader."""
_EXCERPT_CHARS, _SLACK = 400, 40
_BREAK = re.compile(r"[\s、。，．,.;:!?！？；：」』）)\]]+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_INLINE_CODE = re.compile(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)")
CODE = -1
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class Piece:
    """A piece of a text: as it is, or a word of the query."""

    text: str
    is_match: bool = False


def pieces(text: str, query: str) -> list[Piece]:
    """Return a text in pieces, with the words of the query apart: words as the index has them, not substrings."""
    wanted = set(words(query))
    text = _DISGUISES.sub("", text)
    found: list[Piece] = []
    at = 0
    for start, end, here in word_spans(text) if wanted else ():
        if wanted.isdisjoint(here) or start < at or _GRAMMAR.fullmatch(text[start:end]):
            continue
        if start > at:
            found.append(Piece(text[at:start]))
        found.append(Piece(text[start:end], is_match=True))
        at = end
    return [*found, Piece(text[at:])] if at < len(text) else found


def without_marks(text: str) -> str:
    """Return a Markdown text without the marks of its headings and its code."""
    return "\n".join(line for _, line in _lines(text))


@dataclass(frozen=True)
class Part:
    """A heading, code, or the text between them."""

    level: int
    """1 for `#`, 2 for `##`, …; 0 for a text, `CODE` for code."""
    pieces: list[Piece]


def parts(text: str, query: str) -> list[Part]:
    """Return a Markdown text in parts, with the words of the query apart."""
    found: list[Part] = []
    for level, group in groupby(_lines(text), key=itemgetter(0)):
        lines = [line for _, line in group]
        for part in lines if level > 0 else ["\n".join(lines).strip("\n")]:
            if part:
                found.append(Part(level, pieces(part, query)))
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Markdown text as readers see them, each with its level; in code, `#` begins a comment."""
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif fence:
            yield CODE, line
        else:
            heading = _HEADING.match(line)
            yield len(heading[1]) if heading else 0, _INLINE_CODE.sub(r"\2", heading[2] if heading else line)


def excerpt(shown: Sequence[Piece]) -> list[Piece]:
    """Return what is worth showing of a long text: from a little before the first word that matches, between words."""
    before = 0
    for piece in shown:
        if piece.is_match:
            break
        before += len(piece.text)
    else:
        before = 0
    text = "".join(piece.text for piece in shown)
    start = _between_words(text, max(0, before - _EXCERPT_CHARS // 4), before)
    end = start + _EXCERPT_CHARS
    if end < len(text):
        cut = max((found.end() for found in _BREAK.finditer(text, end - _SLACK, end)), default=end)
        end = max(cut, before + 1)
    return list(_cut(shown, start, end))


def _between_words(text: str, start: int, last: int) -> int:
    """Return a place to begin at that is inside no word, a little after `start` and not after `last`."""
    if start == 0:
        return 0
    if found := _BREAK.search(text, start - 1, min(last, start + _SLACK)):
        return found.end()
    # A text without spaces and marks: between its words, as the index has them.
    window = text[max(0, start - _SLACK) : last]
    offset = max(0, start - _SLACK)
    return next((offset + begin for begin, _, _ in word_spans(window) if offset + begin >= start), last)


def _cut(shown: Sequence[Piece], start: int, end: int) -> Iterator[Piece]:
    if start:
        yield Piece("… ")
    at = 0
    for piece in shown:
        text = piece.text[max(0, start - at) : max(0, end - at)]
        at += len(piece.text)
        if text:
            yield Piece(text, piece.is_match)
    if at > end:
        yield Piece(" …")


def plain(text: str | None) -> str:
    """Return a title or a name without what could disguise it."""
    return _DISGUISES.sub("", text or "")


def link(url: str | None) -> str | None:
    """Return an address that a browser may follow; None for any other, such as `javascript:`."""
    if url is None or not re.fullmatch(r"https?://[^\s\"'<>]+", url) or _DISGUISES.search(url):
        return None
    return url


def moment(value: datetime | str | None, timezone: str) -> str:
    """Return a moment as the reader's clock shows it, with its offset; a day, which is stored as its start in UTC, as it is."""
    if value is None:
        return ""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    if when.astimezone(UTC).time() == time.min:
        return when.astimezone(UTC).date().isoformat()
    return when.astimezone(zone_of(timezone) or UTC).isoformat(" ", "minutes")


def zone_of(timezone: str) -> ZoneInfo | None:
    """Return the zone of a reader's clock; None for UTC, and for what is none."""
    try:
        return ZoneInfo(timezone) if timezone != "UTC" else None
    except (ZoneInfoNotFoundError, ValueError, OSError):  # `Asia` is a folder.
        return None
