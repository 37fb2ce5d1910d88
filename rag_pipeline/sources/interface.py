"""The interface of connectors: the `Source` protocol, and the `Item`s and `ScanProblem`s that a scan yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """Something that exists in a source, as far as it is known without reading its bytes."""

    source_id: str
    """Unique among all sources of a type (it contains the source's name), at most 255 characters, printable."""
    locator: str
    """The argument of `fetch`, and the position in the order of the scan. Any text that PostgreSQL can store."""
    name: str
    """The file's name, printable, with its extension. Decides the format and is the title of last resort."""
    fingerprint: str
    """Changes whenever the content can have changed: size and times, or an etag."""
    size: int | None
    modified_at: datetime | None
    """Aware, UTC."""
    url: str | None = None
    """Link for a person to open."""
    older_fingerprint: str | None = None
    """What older programs stored in the place of `fingerprint`: as good as that, so that they need not be read anew."""

    @property
    def key(self) -> str:
        """The position in the order of the scan, which can continue after a key."""
        return self.locator


@dataclass(frozen=True)
class ScanProblem:
    """Something that could not be listed, such as a folder without permission. The items in it are not gone."""

    key: str
    """Prefix of the keys of everything in it."""
    path: str
    reason: str


class Source(Protocol):
    """A connector: lists what exists in a source and reads its bytes."""

    not_included: dict[str, int]
    """What the scans have passed by that is no item, by kind: see `not_included`."""

    def scan(self, after: str | None = None) -> Iterator[Item | ScanProblem]:
        """Yield all items with a key greater than `after`, in the order of their keys (as Python compares text), lazily.

        What is stored and missing between two keys that follow each other is not there any more.

        Raises `SourceError` if the source as a whole cannot be listed, even at the end: only a scan that ends
        normally has seen everything.
        """
        ...

    def fetch(self, locator: str, max_bytes: int) -> bytes:
        """Return the bytes of an item.

        Raises `DocumentError` if the item cannot be read or is larger than `max_bytes`, `VanishedError` if it is
        no longer there, and `SourceError` if the source as a whole is unreachable.
        """
        ...

    def head(self, locator: str, size: int) -> bytes:
        """Return the first `size` bytes of an item, or all of a shorter one. Raises what `fetch` raises."""
        ...
