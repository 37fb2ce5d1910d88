"""What a connector needs to know of a tree of folders, wherever it lies. Plain data and an interface."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file without reading it."""

    fingerprint: str
    size: int | None
    modified_at: datetime | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    """As `bytes.decode("utf-8", "surrogateescape")` gives it; no `/`."""
    is_folder: bool
    facts: Callable[[], Facts | None]
    """Of a file; None where it vanished meanwhile or is a link to a folder. Raises `OSError`."""


class Tree(Protocol):
    """A tree of folders; paths are relative to its root, "" is the root.

    Whatever fails is an `OSError` whose `strerror` is plain words without secrets; whether one file or all of
    the tree is to blame, `identity` tells.
    """

    def identity(self) -> Hashable:
        """What the root is, such as its device and inode. Raises `SourceError` where it is not a folder."""
        ...

    def entries(self, folder: str) -> list[Entry]:
        """The names in a folder, in any order."""
        ...

    def open(self, path: str) -> AbstractContextManager[tuple[BinaryIO, int | None]]:
        """A file's bytes, and its size where that is known. What is not a regular file is never opened, as a pipe would wait for ever."""
        ...

    def url(self, path: str) -> str:
        """Where a person opens it; without credentials."""
        ...


def plain_reason(error: OSError) -> str:
    """What the system says, to go on a sentence with: `permission denied`; without the path, which it repeats."""
    text = error.strerror or type(error).__name__
    return text[:1].lower() + text[1:]
