"""What a source hands over: items that exist, and problems on the way. Plain data and the connector's interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """One thing that exists in a source, known without reading its bytes."""

    key: str
    """Its place in the scan's order; a scan goes on after a key. Any text PostgreSQL can store."""
    source_id: str
    """Unique among all sources of a type (the source's name is part of it), at most 255 characters, printable."""
    locator: str
    """What `fetch` takes; any text PostgreSQL can store."""
    name: str
    """The file's name, printable, with its extension: decides the format and is the title of last resort."""
    fingerprint: str
    """Changes whenever the content may have: size and time, or an etag."""
    size: int | None
    modified_at: datetime | None
    """Aware, UTC."""
    url: str | None = None
    """Where a person opens it."""


@dataclass(frozen=True)
class ScanProblem:
    """Something that could not be listed: a folder without permission, say. What lies there is not gone."""

    key: str
    """The locators of what lies there begin with this."""
    path: str
    reason: str


class Source(Protocol):
    """A connector: what exists out there, and its bytes."""

    def scan(self, after: str | None = None) -> Iterator[Item | ScanProblem]:
        """All items with a key greater than `after`, in the order of their keys, listed lazily.

        Raises `SourceError` where the source as a whole cannot be listed, at the end too: only a scan that ends
        normally has seen everything.
        """
        ...

    def fetch(self, locator: str, max_bytes: int) -> bytes:
        """The item's bytes.

        Raises `DocumentError` where it cannot be read, has vanished, or is larger than `max_bytes`, and
        `SourceError` where the source as a whole cannot be reached: then the item is not to blame.
        """
        ...

    def head(self, locator: str, size: int) -> bytes:
        """The first bytes of an item, at most `size`. Raises what `fetch` raises."""
        ...
