"""Characters as a reader sees them: Unicode's extended grapheme clusters (UAX 29), found by `regex`."""

from __future__ import annotations

from collections.abc import Iterator

import regex

_MAX_MARKS = 30
"""Marks on one base that the Stream-Safe Text Format (UAX 15) allows."""

_CLUSTER = regex.compile(r"\X")


def split_characters(text: str) -> Iterator[str]:
    """Yield the grapheme clusters of a text in order: `"".join(result) == text`.

    A base with its marks, a Hangul syllable, a conjunct, a flag, an emoji sequence, and CR LF each stay whole. A
    cluster longer than the Stream-Safe Text Format allows occurs in no language and is cut.
    """
    begin = 0
    while begin < len(text):
        # Matching in a copy of the next characters keeps this linear: in the whole text, `\X` counts all the flags
        # before each flag.
        cluster = _CLUSTER.match(text[begin : begin + 1 + _MAX_MARKS])[0]
        yield cluster
        begin += len(cluster)
