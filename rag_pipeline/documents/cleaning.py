"""Cleaning of texts, fields and tags before they go to a store. Parsing and chunking share it.

Text stays as its author wrote it: only line ends are normalised, and only byte order marks and what PostgreSQL or
Milvus cannot store (NUL, lone surrogates) are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_TITLE = 1000
MAX_SECTION_TITLE = 500
MAX_AUTHOR = 255
MAX_CATEGORY = 100
MAX_TAG = 100
MAX_TAGS = 100

_UNSTORABLE = re.compile("[\x00\ufeff\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\u202a-\u202e\u2066-\u2069]+")
_TAG_SEPARATORS = re.compile(r"[,、，;\n]")


def clean_text(text: str) -> str:
    """Return the text with `\\n` line ends and without NULs, byte order marks and lone surrogates."""
    return _UNSTORABLE.sub("", _LINE_ENDS.sub("\n", text))


def clean_field(text: str | None, limit: int) -> str | None:
    """Return a field as one line of at most `limit` printable characters, ending in an ellipsis if it was cut.

    Returns None if nothing is left.
    """
    if not text:
        return None
    line = " ".join(_UNPRINTABLE.sub(" ", text).split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return line or None


def clean_tags(tags: str | Iterable[str]) -> tuple[str, ...]:
    """Return the distinct tags of a list or a comma-separated string (Western or Japanese), without `#`."""
    parts = _TAG_SEPARATORS.split(tags) if isinstance(tags, str) else tags
    cleaned = (clean_field(part.strip().lstrip("#"), MAX_TAG) for part in parts)
    return tuple(dict.fromkeys(tag for tag in cleaned if tag))[:MAX_TAGS]


def language_code(text: str | None) -> str | None:
    """Return the two letters of a language tag (RFC 5646) such as `ja`, `ja-JP` or `en_US`, or None."""
    match = re.match(r"\s*([A-Za-z]{2})(?![A-Za-z])", text or "")
    return match[1].lower() if match else None
