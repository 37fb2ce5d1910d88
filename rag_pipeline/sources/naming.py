"""Names of a source and of its items: the identifier of a source, and of an item its locator, its `source_id` and the
printable name that a person reads.

A path is text decoded by `bytes.decode("utf-8", "surrogateescape")`: file names are any bytes except `/` and NUL,
and each byte that is not UTF-8 becomes a lone surrogate. That text is exact, but no store accepts it. Nothing here
normalises Unicode: two names that look alike are two files.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

SOURCE_ID_LENGTH = 255
"""Size of the column `documents.source_id`, in characters."""

_HASH_DIGITS = 32
_HASHED = re.compile(rf"~[0-9a-f]{{{_HASH_DIGITS}}}$")
_UNSTORABLE = re.compile(r"[\\\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|0|u[0-9a-f]{4})")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, format characters (such as those that reverse the writing direction), surrogates, and line and
paragraph separators. Not the ideographic space or private use: both are common in Japanese file names."""

SENSOR_PREFIX = "sync_"

_PERMISSION = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,62}")


def is_permission(name: str) -> bool:
    """Whether a permission can be called so, which a source asks for and users have."""
    return _PERMISSION.fullmatch(name) is not None


def identifier(source: str) -> str:
    """Return a source's name in letters, digits and `_`, which is all that the names of Dagster's sensors allow."""
    return source.replace("-", "_")


def sensor_name(source: str) -> str:
    """Return the name of the Dagster sensor that scans a source."""
    return f"{SENSOR_PREFIX}{identifier(source)}"


def to_locator(path: str) -> str:
    r"""Return the path as text that any store accepts: `\\` for a backslash, `\0` for NUL,
    `\udc80` for a lone surrogate.

    Most paths are their own locator. No two paths share one, and `from_locator` reverses it.
    """

    def escape(match: re.Match[str]) -> str:
        char = match[0]
        return {"\\": r"\\", "\0": r"\0"}.get(char) or f"\\u{ord(char):04x}"

    return _UNSTORABLE.sub(escape, path)


def from_locator(locator: str) -> str:
    """Return the exact path that `to_locator` was called with."""

    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        return {"\\": "\\", "0": "\0"}.get(code) or chr(int(code[1:], 16))

    return _ESCAPED.sub(unescape, locator)


def printable(text: str) -> str:
    r"""Return the text with invisible characters escaped: `\n`, `\u202e`, `\xff` for a byte not in UTF-8."""
    if text.isprintable():
        return text
    return "".join(_escaped(char) if _invisible(char) else char for char in text)


def source_id(source: str, path: str) -> str:
    """Return the id of a path within a source: unique, printable, at most 255 characters.

    `<source>:<path>` if that is printable and fits. Otherwise the end of the path in readable form, then `~` and
    32 hex digits: 128 bits of the SHA-256 of the locator, which represents the path byte by byte. A path that
    already ends like this gets a hash too, so that no file name can collide with the id of another file.
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


def without_name(reason: str, source_id: str) -> str:
    """Return why an item cannot be used, without the item's name in front, for whoever names it beside the reason."""
    path = _HASHED.sub("", source_id.partition(":")[2])
    composed = unicodedata.normalize("NFC", reason)  # Readers of documents compose a name that they show.
    for name in (f"{path.rpartition('/')[2]}: ", f"{source_id}: ", f"{source_id} "):
        shown = unicodedata.normalize("NFC", name)
        if composed.startswith(shown):
            return composed.removeprefix(shown)
    return reason


def _invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii") if code > 0x7F else repr(char)[1:-1]
