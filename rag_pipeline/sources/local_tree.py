"""`LocalTree`: a tree of folders on this machine, listed by `os.scandir`, about ten times as fast as fsspec.

Paths are bytes here, so that neither the locale of the process nor a name in another encoding changes what is
found.

A link must not lead out of the root unless the source follows links; else what it leads to does not belong to the
source. That is decided again when a file is opened, from what is opened: the link can have another target by then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO
from urllib.parse import quote

from rag_pipeline.errors import SourceError
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.not_included import LINKS_TO_NOWHERE, LINKS_TO_OUTSIDE
from rag_pipeline.sources.tree import Entry, Facts, plain_reason

_NO_TARGET = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Errors of `stat` for a broken link: to nothing, to itself, through a file, or to an impossible path."""

_ELSEWHERE = frozenset({b"", b".", b".."})
"""Parts of a path that are not the name of something in a folder."""

_OUTSIDE = "is a link to outside the source's folder: set follow_links: true for the source if it may be read"

_NOWHERE = "is a link that leads nowhere"

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK returns at once even if the name belongs to a pipe by now."""


class LocalTree:
    """A `Tree` on this machine.

    Links to files in the root are followed; links to folders in it are skipped, since their files are found anyway.
    Links to anything outside are not included. If the source follows links, all are followed, but no folder is entered
    within itself.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._source = config.name
        self._shown = config.path
        self._listed_in = config.listed_in
        self._root = config.path.encode("utf-8", "surrogateescape")
        self._follow_links = config.follow_links

    def identity(self) -> Hashable:
        """Return the device and inode of the root, which change after an unmount or when a link is swapped."""
        try:
            status = os.stat(self._root)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                reason = (
                    f"does not exist: mount it again if it was mounted, or correct `path` in {self._listed_in}"
                )
            else:
                reason = f"is unreachable: {plain_reason(error)}"
            raise SourceError(f"source {self._source}: {self._shown} {reason}") from None
        if not stat.S_ISDIR(status.st_mode):
            raise SourceError(
                f"source {self._source}: {self._shown} is not a folder: set `path` in {self._listed_in} to a folder"
            )
        return status.st_dev, status.st_ino

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder. Raises `OSError`."""
        if self._follow_links and self._is_within_itself(folder):
            return []
        path = self._path(folder)
        if not self._follow_links and not self._is_inside(path):
            raise OSError(errno.EXDEV, _OUTSIDE)
        with os.scandir(path) as found:
            return [entry for one in found if (entry := self._entry(one)) is not None]

    @contextmanager
    def open(self, path: str) -> Iterator[tuple[BinaryIO, int | None]]:
        """Open a regular file; yields the file and its size. Raises `OSError`: `ENOLINK` for a link that leads nowhere."""
        try:
            descriptor = _open_regular(self._path(path)) if self._follow_links else self._open_inside(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and os.path.islink(self._path(path)):
                raise OSError(errno.ENOLINK, _NOWHERE) from None
            raise
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_regular(status)
            yield file, status.st_size

    def is_listed(self, path: str) -> bool:
        """Return False: a link to nothing does exist."""
        return False

    def url(self, path: str) -> str:
        """Return a `file://` URL, percent-encoded byte by byte."""
        return "file://" + quote(self._path(path))

    def _path(self, path: str) -> bytes:
        return os.path.join(self._root, path.encode("utf-8", "surrogateescape")) if path else self._root

    def _entry(self, found: os.DirEntry[bytes]) -> Entry | None:
        """Return the entry of a name; None for a link to a folder that is found anyway."""
        name, facts = found.name.decode("utf-8", "surrogateescape"), partial(self._facts, found)
        if not found.is_symlink():
            return Entry(name, found.is_dir(follow_symlinks=False), facts)
        is_folder = os.path.isdir(found.path)
        if self._follow_links:
            return Entry(name, is_folder, facts)
        if self._is_inside(found.path):
            return None if is_folder else Entry(name, False, facts)
        exists = os.path.exists(found.path)
        return Entry(name, is_folder, facts, LINKS_TO_OUTSIDE if exists else LINKS_TO_NOWHERE)

    def _facts(self, entry: os.DirEntry[bytes]) -> Facts | None:
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in _NO_TARGET and entry.is_symlink():
                return Facts("broken link", None, None)
            if error.errno == errno.ENOENT:
                return None
            raise
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            return Facts("not a regular file", None, None)
        older = f"{status.st_size}-{status.st_mtime_ns}"
        # `rsync -t`, `cp -p` and archives set the time of modification, which an edit of the same size can keep; nobody
        # can set that of the last change. Moving a file and its permissions change it too: then its bytes are compared.
        fingerprint = f"{older}-{status.st_ctime_ns}"
        return Facts(fingerprint, status.st_size, _moment(status.st_mtime_ns), older)

    def _is_inside(self, path: bytes) -> bool:
        root = os.path.realpath(self._root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def _is_within_itself(self, folder: str) -> bool:
        """Whether links have led back to a folder that contains this one."""
        parts = folder.split("/") if folder else []
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        return any(os.path.samefile(self._path(one), self._path(folder)) for one in above)

    def _open_inside(self, path: str) -> int:
        """Open a file that is in the folder, on whatever way: by its path if that has no links, else by its real one.

        One folder after the other is opened without following any link, so whatever is replaced by one meanwhile
        cannot be opened.
        """
        parts = path.encode("utf-8", "surrogateescape").split(b"/")
        if not _ELSEWHERE.intersection(parts):
            try:
                return _open_below(self._root, parts)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):  # what a link on the way is refused with
                    raise
        root = os.path.realpath(self._root)
        real = os.path.realpath(self._path(path))
        if os.path.commonpath([root, real]) != root:
            raise OSError(errno.EXDEV, _OUTSIDE)
        return _open_below(root, os.path.relpath(real, root).split(b"/"))


def _open_below(root: bytes, parts: Sequence[bytes]) -> int:
    """Open a regular file by the parts of its path below a folder, without following any link."""
    *folders, name = parts
    parent = os.open(root, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            child = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            os.close(parent)
            parent = child
        return _open_regular(name, parent)
    finally:
        os.close(parent)


def _open_regular(name: bytes, folder: int | None = None) -> int:
    """Open a regular file; one in a folder that is already open must not be a link."""
    is_path = folder is None
    # Checked here, because opening a device can act on it, and by the caller, because the name can be of another file
    # by the time that it is opened.
    _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=is_path))
    return os.open(name, _OPEN if is_path else _OPEN | os.O_NOFOLLOW, dir_fd=folder)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "is a folder, not a file")
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, _NOWHERE)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")


def _moment(nanoseconds: int) -> datetime | None:
    """Return a time in UTC; None for one beyond the calendar, as damaged file systems and archives can have."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return None
