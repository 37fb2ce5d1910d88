"""The `Tree` protocol: what `filesystem` needs from a tree of folders, local or remote, and its plain data."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a file without reading it."""

    fingerprint: str
    size: int | None
    modified_at: datetime | None
    older_fingerprint: str | None = None
    """See `Item.older_fingerprint`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    """Decoded by `bytes.decode("utf-8", "surrogateescape")`; without `/`."""
    is_folder: bool
    facts: Callable[[], Facts | None]
    """Returns the facts of a file; None if it is gone by now or is a link to a folder. Raises `OSError`."""
    not_included: str | None = None
    """The kind of what belongs to no source whatever its patterns say, such as a link to outside; else None."""


class Tree(Protocol):
    """A tree of folders. Paths are relative to its root, which is "".

    A failure is an `OSError` whose `strerror` is a plain reason without secrets. Whether one file or the whole
    tree failed, `identity` shows.
    """

    def identity(self) -> Hashable:
        """Return the identity of the root, such as device and inode. Raises `SourceError` unless it is a folder."""
        ...

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder, in any order."""
        ...

    def open(self, path: str) -> AbstractContextManager[tuple[BinaryIO, int | None]]:
        """Open a regular file (a pipe would block); yields the file, and its size if known."""
        ...

    def is_listed(self, path: str) -> bool:
        """Whether the next scan can find a file that does not exist."""
        ...

    def url(self, path: str) -> str:
        """Return a link for a person to open, without credentials."""
        ...


def plain_reason(error: OSError) -> str:
    """Return the system's reason in lower case and without the path: `permission denied`."""
    text = error.strerror or type(error).__name__
    return text[:1].lower() + text[1:]
