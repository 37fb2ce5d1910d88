"""Matching of paths by the `include` and `exclude` patterns of a source.

A path is matched folder by folder, so that a walk knows before it opens a folder whether anything in it can match:
hidden folders and folders outside the patterns are never listed.

The syntax is that of the shell: `*`, `?` and `[…]` within one name, `**` for any number of folders,
case-sensitive unless asked otherwise. With one deliberate exception: names and patterns are compared in NFC, because
macOS returns decomposed file names (`が` as two characters) and nobody writes patterns like that.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Sequence

State = frozenset[tuple[int, int]]
"""Progress of each pattern: (index of the pattern, number of its parts already matched)."""

ANY_FOLDERS = "**"

_HIDDEN = (".", "~$")
"""How hidden names begin. `~$name.docx` is what Office keeps beside a document that somebody has open; LibreOffice's
`.~lock.name.docx#` has the dot."""


def is_hidden(name: str) -> bool:
    """Whether a name is of a hidden file or folder, which no wildcard of `include` matches."""
    return name.startswith(_HIDDEN)


def split_pattern(pattern: str) -> tuple[str, ...]:
    """Return the parts of a pattern, one per path component. A trailing `/` or `/**` means everything below.

    Raises `ValueError`, with what to write instead, if the pattern can never match as intended.
    """
    if not pattern.strip():
        raise ValueError("an empty pattern matches nothing: remove it")
    if pattern.startswith("/"):
        raise ValueError(f"{pattern!r} starts with a slash: patterns are relative to `path`, so remove it")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{pattern!r} leaves the source's folder: patterns are relative to `path`")
    for part in parts:
        if ANY_FOLDERS in part and part != ANY_FOLDERS:
            raise ValueError(f"{pattern!r}: ** must be alone between slashes, as in **/*.md")
        if re.search(r"(?<!\[)\{[^}]*,", part):
            raise ValueError(f"{pattern!r}: braces are not supported: write one pattern for each alternative")
    if pattern.endswith("/") and parts[-1:] != [ANY_FOLDERS]:
        parts.append(ANY_FOLDERS)
    if parts[-1:] == [ANY_FOLDERS]:
        parts.append("*")
    return tuple(parts)


class Patterns:
    """Several patterns, matched together.

    `hidden`: whether wildcards match hidden names, see `is_hidden`. If not, as in a shell, only a pattern that begins as
    they do matches one. `ignore_case`: whether `*.pdf` matches `A.PDF`.
    """

    def __init__(self, patterns: Sequence[str], *, hidden: bool, ignore_case: bool = False) -> None:
        self._hidden = hidden
        self._patterns = [
            [_matcher(part, hidden, ignore_case) for part in split_pattern(pattern)] for pattern in patterns
        ]
        self.start: State = self._reached((index, 0) for index in range(len(self._patterns)))

    def enter(self, state: State, folder: str) -> State:
        """Return the state inside a folder; empty if nothing in it can match."""
        name = unicodedata.normalize("NFC", folder)
        deeper: set[tuple[int, int]] = set()
        for index, used in state:
            parts = self._patterns[index]
            matches = parts[used]
            if matches is None:
                if self._hidden or not is_hidden(name):
                    deeper.add((index, used))
            elif used + 1 < len(parts) and matches(name):
                deeper.add((index, used + 1))
        return self._reached(deeper)

    def match(self, state: State, name: str) -> bool:
        """Return whether a whole pattern matches a name in the folder of this state."""
        name = unicodedata.normalize("NFC", name)
        for index, used in state:
            parts = self._patterns[index]
            matches = parts[used]
            if used + 1 == len(parts) and matches is not None and matches(name):
                return True
        return False

    def _reached(self, positions: object) -> State:
        """Return the positions and those with every `**` skipped, because it also matches no folder at all."""
        reached = set(positions)  # type: ignore[call-overload]
        for index, used in tuple(reached):
            parts = self._patterns[index]
            while parts[used] is None:
                used += 1
                reached.add((index, used))
        return frozenset(reached)


def _matcher(part: str, hidden: bool, ignore_case: bool) -> Callable[[str], object] | None:
    """Return a test for one name; None for `**`, which matches any number of names."""
    if part == ANY_FOLDERS:
        return None
    part = unicodedata.normalize("NFC", part)
    expression = fnmatch.translate(part)
    if not hidden and not is_hidden(part):
        expression = f"(?!{'|'.join(map(re.escape, _HIDDEN))})" + expression
    return re.compile(expression, re.IGNORECASE if ignore_case else 0).match
