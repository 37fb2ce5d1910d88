"""What an item is called: its locator, its `source_id`, the name that a person reads.

A path is text as `bytes.decode("utf-8", "surrogateescape")` gives it: file names are bytes, any bytes but `/`
and NUL, and each byte that is not UTF-8 is a lone surrogate. That text is exact but no store takes it. Nothing
here normalises Unicode: two names that look alike are two files.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

SOURCE_ID_LENGTH = 255
"""What `documents.source_id` holds, in characters."""

_HASH_DIGITS = 32
_HASHED = re.compile(rf"~[0-9a-f]{{{_HASH_DIGITS}}}$")
_UNSTORABLE = re.compile(r"[\\\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|0|u[0-9a-f]{4})")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, format characters (such as those that reverse the direction of writing), surrogates, and line and
paragraph separators. Not the ideographic space and not private use: both are common in Japanese file names."""


def to_locator(path: str) -> str:
    r"""The path as text that any store takes: `\\` for a backslash, `\0` for NUL, `\udc80` for a lone surrogate.

    Most paths are their own locator. No two paths share one; `from_locator` is the way back.
    """

    def escape(match: re.Match[str]) -> str:
        char = match[0]
        return {"\\": r"\\", "\0": r"\0"}.get(char) or f"\\u{ord(char):04x}"

    return _UNSTORABLE.sub(escape, path)


def from_locator(locator: str) -> str:
    """The exact path that `to_locator` was given."""

    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        return {"\\": "\\", "0": "\0"}.get(code) or chr(int(code[1:], 16))

    return _ESCAPED.sub(unescape, locator)


def printable(text: str) -> str:
    r"""The text with what cannot be seen or stored written out: `\n`, `\u202e`, `\xff` for a byte that is not UTF-8."""
    if text.isprintable():
        return text
    return "".join(_written_out(char) if _invisible(char) else char for char in text)


def source_id(source: str, path: str) -> str:
    """The id of a path within a source: unique, printable, at most 255 characters.

    `<source>:<path>` where that is printable and fits. Otherwise the path's end, readable, then `~` and 32 hex
    digits: 128 bits of the SHA-256 of the locator, which stands for the path byte by byte. A path that itself
    ends like that gets a hash too, so that no file's name can be made to collide with another file's id.
    """
    room = SOURCE_ID_LENGTH - len(source) - 1
    readable = printable(path)
    if readable == path and len(path) <= room and not _HASHED.search(path):
        return f"{source}:{path}"
    digest = hashlib.sha256(to_locator(path).encode()).hexdigest()[:_HASH_DIGITS]
    room -= _HASH_DIGITS + 1
    if len(readable) > room:
        readable = "…" + readable[len(readable) - room + 1 :]
    return f"{source}:{readable}~{digest}"


def _invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE


def _written_out(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii") if code > 0x7F else repr(char)[1:-1]
