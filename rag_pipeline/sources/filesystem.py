"""The connector for files in a local folder or at any fsspec URL.

Keys are paths (as locators) and compare as plain strings. Within a folder, a subfolder is sorted as if its name
ended in `/`. So walking the tree yields its keys in order, and a scan that continues after a key skips whole
folders without listing them. The walk holds the names in the folders it is in, never the whole tree.

Links are followed within the source's folder, and out of it only if `follow_links` is set (`local_tree`); else what they
lead to does not belong to the source. Hidden files and folders (`patterns.is_hidden`) are left out unless a pattern begins
as their names do. Something that matches but cannot be read (a broken link, a pipe) is an item all the same, so that it is quarantined
with a reason instead of being overlooked.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, NoReturn

from rag_pipeline.errors import DocumentError, SourceError, VanishedError
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.interface import Item, ScanProblem
from rag_pipeline.sources.local_tree import LocalTree
from rag_pipeline.sources.naming import from_locator, printable, source_id, to_locator
from rag_pipeline.sources.not_included import count, kind_of
from rag_pipeline.sources.patterns import Patterns, State, is_hidden
from rag_pipeline.sources.remote_tree import RemoteTree
from rag_pipeline.sources.tree import Entry, Tree, plain_reason

_READ_BYTES = 1024 * 1024


class _Folder(NamedTuple):
    path: str
    key: str
    """Prefix of every key in the folder. Ends in `/`; empty for the root."""
    included: State
    excluded: State


class FilesystemSource:
    """A `Source` over a folder. Nothing is opened before the first scan or fetch."""

    def __init__(self, config: SourceConfig) -> None:
        self.not_included: dict[str, int] = {}
        self._name = config.name
        self._root = f"source {config.name}: {printable(config.path)}"
        self._tree: Tree = LocalTree(config) if config.is_local else RemoteTree(config)
        self._include = Patterns(config.include, hidden=False, ignore_case=config.includes_by_default)
        # Exclusions are complete: their wildcards match hidden names too.
        self._exclude = Patterns(config.exclude, hidden=True)

    def scan(self, after: str | None = None) -> Iterator[Item | ScanProblem]:
        """Yield all matching files with a key greater than `after`, in the order of their keys.

        A folder that cannot be listed yields a `ScanProblem` whose key is the prefix of all keys in the folder. If
        that is the folder that contains `after`, its problem comes first, once more.

        Raises `SourceError` during iteration if the root cannot be listed, or if it becomes another folder
        meanwhile (after an unmount, say). A pass that ends without an error has seen everything.
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
            elif isinstance(found, str):
                count(self.not_included, found)
            else:
                path, key, entry = found
                item = self._item(path, key, entry)
                if item is not None:
                    yield item
        if self._tree.identity() != identity:
            raise SourceError(f"{self._root} was replaced during the scan: scan it again")

    def fetch(self, locator: str, max_bytes: int) -> bytes:
        """Return the bytes of a file.

        Raises `DocumentError` if this file cannot be read or is larger than `max_bytes`, and `SourceError` if the
        whole source is unreachable, so that a lost mount does not quarantine every document.
        """
        with self._opened(locator) as (file, known_size):
            size = known_size or 0
            # The size can be unknown, and a file can grow while it is read: so one byte more than allowed is read.
            data = b"" if size > max_bytes else _first_bytes(file, max_bytes + 1)
        if max(size, len(data)) > max_bytes:
            is_size, limit = _sizes(max(size, len(data)), max_bytes)
            raise DocumentError(
                f"{self._shown(locator)} is {is_size}, over the limit of {limit}:"
                " raise RAG_MAX_DOCUMENT_BYTES or split it"
            )
        return data

    def head(self, locator: str, size: int) -> bytes:
        """Return the first `size` bytes of a file, or all of a shorter one. Raises what `fetch` raises."""
        with self._opened(locator) as (file, _):
            return _first_bytes(file, size)

    def _listed(self, folder: _Folder, after: str) -> list[_Folder | tuple[str, str, Entry] | str]:
        """Return the matching files of a folder and the subfolders that can contain matches, in key order.

        What is not included is there too, as its kind: so a scan that continues counts it where it comes by.
        """
        found: dict[str, _Folder | tuple[str, str, Entry] | str] = {}
        for entry in self._tree.entries(folder.path):
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            key = folder.key + to_locator(entry.name)
            if self._exclude.match(folder.excluded, entry.name):
                continue
            if entry.not_included is not None:
                patterns = self._include
                matches = patterns.enter if entry.is_folder else patterns.match
                if key > after and matches(folder.included, entry.name):
                    found[key] = entry.not_included
            elif entry.is_folder:
                key += "/"
                included = self._include.enter(folder.included, entry.name)
                if included and (key > after or after.startswith(key)):
                    excluded = self._exclude.enter(folder.excluded, entry.name)
                    found[key] = _Folder(path, key, included, excluded)
            elif key <= after:
                continue
            elif self._include.match(folder.included, entry.name):
                found[key] = path, key, entry
            elif not is_hidden(entry.name):
                found[key] = kind_of(entry.name)
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
            source_id=source_id(self._name, path),
            locator=key,
            name=printable(entry.name),
            fingerprint=facts.fingerprint,
            size=facts.size,
            modified_at=facts.modified_at,
            url=self._tree.url(path),
            older_fingerprint=facts.older_fingerprint,
        )

    def _problem(self, path: str, key: str, error: OSError) -> ScanProblem:
        self._tree.identity()  # raises if the connection is lost, instead of failing at every folder in turn
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
            if not self._tree.is_listed(from_locator(locator)):
                raise VanishedError(f"{self._shown(locator)} does not exist any more") from None
            reason = "does not exist: it was removed, or it is a link to something that was"
        elif error.errno == errno.EXDEV:
            # Its scan saw something else there, or by other settings; the next one finds that it does not belong here.
            raise VanishedError(f"{self._shown(locator)} {plain_reason(error)}") from None
        elif error.errno == errno.ENOLINK:
            reason = plain_reason(error)
        elif error.errno == errno.ELOOP:
            reason = "is a symbolic link in a loop"
        elif error.errno in (errno.EISDIR, errno.EINVAL):
            reason = "is not a regular file"
        else:
            reason = f"cannot be read: {plain_reason(error)}"
        raise DocumentError(f"{self._shown(locator)} {reason}") from None

    def _shown(self, locator: str) -> str:
        return source_id(self._name, from_locator(locator))


def _first_bytes(file: BinaryIO, size: int) -> bytes:
    """Read at most `size` bytes, in pieces: a reader that is asked for everything at once allocates all of it."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(min(size, _READ_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _sizes(size: int, limit: int) -> tuple[str, str]:
    """Return two sizes in MB, or in bytes if they would look the same or small in MB."""
    texts = f"{size / 1e6:.1f} MB", f"{limit / 1e6:.1f} MB"
    is_readable = limit >= 100_000 and texts[0] != texts[1]
    return texts if is_readable else (f"{size:,} bytes", f"{limit:,} bytes")
