"""The connector for files: a local folder, or any fsspec URL.

Keys are paths (as locators), and compare as plain strings: in each folder, a sub-folder is sorted as if its name
ended in `/`, so that walking the tree gives its keys in order, and a scan that goes on after a key passes over
whole folders without listing them. At any time the walk holds the names of the folders it is in, not the tree.

Links to files are followed, links to folders are not. Hidden files and folders (leading dot) are left out unless
a pattern writes the dot. What matches and cannot be read (a broken link, a pipe) is an item all the same: it is
set aside with a reason rather than overlooked.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, NoReturn

from rag_pipeline.errors import DocumentError, SourceError
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.interface import Item, ScanProblem
from rag_pipeline.sources.local_tree import LocalTree
from rag_pipeline.sources.naming import from_locator, printable, source_id, to_locator
from rag_pipeline.sources.patterns import Patterns, State
from rag_pipeline.sources.remote_tree import RemoteTree
from rag_pipeline.sources.tree import Entry, Tree, plain_reason

_READ_BYTES = 1024 * 1024


class _Folder(NamedTuple):
    path: str
    key: str
    """Ends in `/`, but for the root's, which is empty: the beginning of every key in the folder."""
    included: State
    excluded: State


class FilesystemSource:
    """A `Source` over a folder. Cheap to make: nothing is opened before the first scan or fetch."""

    def __init__(self, config: SourceConfig) -> None:
        self._name = config.name
        self._root = f"source {config.name}: {printable(config.path)}"
        self._tree: Tree = LocalTree(config.name, config.path) if config.is_local else RemoteTree(config)
        self._include = Patterns(config.include, hidden=False)
        # What is excluded is excluded whole: a wildcard there means hidden names too.
        self._exclude = Patterns(config.exclude, hidden=True)

    def scan(self, after: str | None = None) -> Iterator[Item | ScanProblem]:
        """All files that match with a key greater than `after`, in the order of their keys.

        A folder that cannot be listed is a `ScanProblem` whose key is the beginning of the keys of all that may
        lie in it. Should that happen to the very folder that `after` lies in, its problem comes first, once more.

        Raises `SourceError`, when iterated, where the root cannot be listed or became another folder meanwhile
        (an unmount, say): a pass that ends without it has seen everything.
        """
        after = after or ""
        identity = self._tree.identity()
        root = _Folder("", "", self._include.start, self._exclude.start)
        try:
            stack = [iter(self._listed(root, after))]
        except OSError as error:
            raise SourceError(f"{self._root} cannot be listed: {plain_reason(error)}") from None
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, _Folder):
                try:
                    stack.append(iter(self._listed(found, after)))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR) and found.key != after:
                        yield self._problem(found.path, found.key, error)
            else:
                path, key, entry = found
                item = self._item(path, key, entry)
                if item is not None:
                    yield item
        if self._tree.identity() != identity:
            raise SourceError(f"{self._root} was replaced while it was listed: scan it again")

    def fetch(self, locator: str, max_bytes: int) -> bytes:
        """A file's bytes.

        Raises `DocumentError` where this file cannot be read or is larger than `max_bytes`, and `SourceError`
        where the trouble is the whole source's, so that a lost mount does not set every document aside.
        """
        with self._opened(locator) as (file, known_size):
            size = known_size or 0
            # The size may be unknown, and a file may grow while it is read: hence one byte more than allowed.
            data = b"" if size > max_bytes else _first_bytes(file, max_bytes + 1)
        if max(size, len(data)) > max_bytes:
            is_size, limit = _sizes(max(size, len(data)), max_bytes)
            raise DocumentError(
                f"{self._shown(locator)} is {is_size}, over the limit of {limit} (RAG_MAX_DOCUMENT_BYTES)"
            )
        return data

    def head(self, locator: str, size: int) -> bytes:
        """A file's first `size` bytes, or all of a shorter one. Raises like `fetch`."""
        with self._opened(locator) as (file, _):
            return _first_bytes(file, size)

    def _listed(self, folder: _Folder, after: str) -> list[_Folder | tuple[str, str, Entry]]:
        """What matches in a folder, and the folders in it where something may, in the order of their keys."""
        found: dict[str, _Folder | tuple[str, str, Entry]] = {}
        for entry in self._tree.entries(folder.path):
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            key = folder.key + to_locator(entry.name)
            if self._exclude.match(folder.excluded, entry.name):
                continue
            if entry.is_folder:
                key += "/"
                included = self._include.enter(folder.included, entry.name)
                if included and (key > after or after.startswith(key)):
                    excluded = self._exclude.enter(folder.excluded, entry.name)
                    found[key] = _Folder(path, key, included, excluded)
            elif key > after and self._include.match(folder.included, entry.name):
                found[key] = path, key, entry
        return [found[key] for key in sorted(found)]

    def _item(self, path: str, key: str, entry: Entry) -> Item | ScanProblem | None:
        try:
            facts = entry.facts()
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._problem(path, key, error)
        if facts is None:
            return None
        return Item(
            key=key,
            source_id=source_id(self._name, path),
            locator=key,
            name=printable(entry.name),
            fingerprint=facts.fingerprint,
            size=facts.size,
            modified_at=facts.modified_at,
            url=self._tree.url(path),
        )

    def _problem(self, path: str, key: str, error: OSError) -> ScanProblem:
        self._tree.identity()  # a lost connection ends the scan instead of failing at every folder in turn
        return ScanProblem(key, printable(path), plain_reason(error))

    @contextmanager
    def _opened(self, locator: str) -> Iterator[tuple[BinaryIO, int | None]]:
        try:
            with self._tree.open(from_locator(locator)) as opened:
                yield opened
        except OSError as error:
            self._refuse(locator, error)

    def _refuse(self, locator: str, error: OSError) -> NoReturn:
        self._tree.identity()
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            reason = "does not exist: it was removed, or it is a link whose target was"
        elif error.errno == errno.ELOOP:
            reason = "is a symbolic link that leads back to itself"
        elif error.errno in (errno.EISDIR, errno.EINVAL):
            reason = "is not a regular file"
        else:
            reason = f"cannot be read: {plain_reason(error)}"
        raise DocumentError(f"{self._shown(locator)} {reason}") from None

    def _shown(self, locator: str) -> str:
        return source_id(self._name, from_locator(locator))


def _first_bytes(file: BinaryIO, size: int) -> bytes:
    """At most `size` bytes. In pieces: a reader that is asked for all at once sets all of it aside beforehand."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(min(size, _READ_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _sizes(size: int, limit: int) -> tuple[str, str]:
    """Two sizes in MB, or in bytes where that would say nothing."""
    texts = f"{size / 1e6:.1f} MB", f"{limit / 1e6:.1f} MB"
    told_apart = limit >= 100_000 and texts[0] != texts[1]
    return texts if told_apart else (f"{size:,} bytes", f"{limit:,} bytes")
