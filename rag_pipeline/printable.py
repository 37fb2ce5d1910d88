"""Text for a terminal or a chat, whatever a document, a file name or a server put into it."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, line separators, marks that change the direction of writing, and lone surrogates, which nothing can encode or
store. Joiners and soft hyphens are not among them: emoji and scanned texts are full of them."""
_RUNS = re.compile(f"{_UNPRINTABLE.pattern}+")


def escaped(text: str) -> str:
    r"""Return the text with escapes, such as `\x1b`, so that a reader sees what is there."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def blanked(text: str) -> str:
    """Return the text with a space in place of each run of what cannot be printed."""
    return _RUNS.sub(" ", text)
