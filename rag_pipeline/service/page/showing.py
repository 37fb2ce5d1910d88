"""How documents are shown. They are hostile: whatever is in one is text, and can neither act nor disguise itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rag_pipeline.language.words import word_spans, words

_DISGUISES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Controls, and marks that turn the direction of what follows."""
_GRAMMAR = re.compile("[\u3041-\u3096]{1,2}")
"""The い of 止まっている is a word to the analyser, and nothing to a reader."""
_EXCERPT_CHARS = 400


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


def excerpt(shown: Sequence[Piece]) -> list[Piece]:
    """Return what is worth showing of a long text: from a little before the first word that matches."""
    before = 0
    for piece in shown:
        if piece.is_match:
            break
        before += len(piece.text)
    else:
        before = 0
    start = max(0, before - _EXCERPT_CHARS // 4)
    return list(_cut(shown, start, start + _EXCERPT_CHARS))


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
    """Return a moment as the reader's clock shows it, with its offset."""
    if value is None:
        return ""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    try:
        zone: Any = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # `Asia` is a folder.
        zone = UTC
    return when.astimezone(zone).isoformat(" ", "minutes")
