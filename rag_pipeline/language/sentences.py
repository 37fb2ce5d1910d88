"""Splitting of Japanese and Western text into sentences.

It serves to cut long paragraphs and to embed each sentence, so nothing must be lost: the sentences joined are the
text. It uses rules, not a model: the result is deterministic, and fast enough for every paragraph.
"""

from __future__ import annotations

import re

_CANDIDATE = re.compile(
    r"""
    (?P<mark>[。｡！？!?．.]+)                        # what can end a sentence
    (?P<closing>[」』）)】〕〉》］\]｝}”’"'*_]*)       # and closing brackets and quotes
    (?P<space>\s*)
    | (?P<newline>\n\s*)
    """,
    re.VERBOSE,
)

_CONTINUES_AFTER_QUOTE = re.compile(r"[とっをにはがもので、，,]")
"""After 「…。」 these continue the sentence around the quotation: 「はい。」と答えた。"""

_JAPANESE = re.compile(r"[\u3005\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]")
_WORD_BEFORE = re.compile(r"[^\W_][\w.]*\Z")
_LINE_SO_FAR = re.compile(r"[^\n]*\Z")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]\Z|[A-Z]\Z")
_ABBREVIATION = re.compile(
    r"(?:approx|ca|cf|corp|dept|dr|eds?|eq|figs?|inc|jr|ltd|mr|mrs|ms|nos|p|para|pp|prof|refs?|resp|sr|st|vol|vs)\Z",
    re.IGNORECASE,
)
_STARTS_BLOCK = re.compile(r"(?:[-*+>#|]|\d+[.)])\s")
_WRAPPED_LINE = 40
"""Characters from which on a line that ends in a word counts as wrapped."""


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with the white space after it: `"".join(result) == text`.

    A sentence ends after 。！？ (full-width or half-width) and the brackets that close after them; after Western `.`,
    `!`, `?` before white space, unless this is an abbreviation, an initial or a list number; and at the end of a
    line, unless the line is wrapped Western text. Decimals, versions and URLs stay whole.
    """
    sentences = []
    start = 0
    for match in _CANDIDATE.finditer(text):
        if match.end() == len(text):
            break
        ends = _ends_line(text, match) if match["newline"] else _ends_sentence(text, match)
        if ends and match.end() > start:
            sentences.append(text[start : match.end()])
            start = match.end()
    if start < len(text):
        sentences.append(text[start:])
    return sentences


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    mark, closing, space = match["mark"], match["closing"], match["space"]
    following = text[match.end()]
    if mark[-1] in "。｡！？":
        if closing and not space and _CONTINUES_AFTER_QUOTE.match(following):
            return False
        return mark[-1] in "。｡" or following not in "、，,"
    if mark[-1] == "．":  # a Japanese full stop, or a decimal point: ３．１４
        return not following.isdigit()
    if not space:
        # Half-width marks inside Japanese: すごい!次は, but not Yahoo!ニュース or example.com/?q
        before = text[match.start() - 1] if match.start() else ""
        return mark[-1] in "!?" and bool(_JAPANESE.match(following) and _JAPANESE.match(before))
    if space.count("\n") > 1:
        return True
    if mark == "." and not closing and _is_abbreviation(text, match.start()):
        return False
    return "\n" in space or not following.islower()


def _is_abbreviation(text: str, dot: int) -> bool:
    window = text[max(0, dot - 40) : dot]
    word = _WORD_BEFORE.search(window)
    if word is None:
        return False
    if word[0].isdigit():
        line = _LINE_SO_FAR.search(window)
        return line is not None and line[0].strip() == word[0]  # a list number: "1. First"
    return bool(_INITIALS.match(word[0]) or _ABBREVIATION.match(word[0]))


def _ends_line(text: str, match: re.Match[str]) -> bool:
    """Return whether a line without a full stop ends a sentence, as a heading or an item does."""
    if match.start() == 0 or "\n" in match[0][1:]:
        return True
    before, following = text[match.start() - 1], text[match.end()]
    if before in "、，":
        return False
    if not before.isascii() or not following.isascii() or _STARTS_BLOCK.match(text, match.end()):
        return True
    if following.islower() or before == ",":
        return False
    length = match.start() - 1 - text.rfind("\n", 0, match.start())
    return not (length >= _WRAPPED_LINE and (before.isalnum() or before in ")\"'") and following.isalnum())
