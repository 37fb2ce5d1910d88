"""`RemoteTree`: a tree of folders at any fsspec URL: s3, gs, az, http, sftp, an archive inside one of these, ...

Each file system has its own package (s3fs, gcsfs, adlfs, aiohttp, paramiko); a missing one is reported when the
source is first opened. Over http, a server's index pages are listed, and names stay percent-encoded. Objects with
an empty part in their key (`a//b`) are not found, because fsspec does not list such folders.
"""

from __future__ import annotations

import email.utils
import errno
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, BinaryIO

from rag_pipeline.errors import SourceError, one_line
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.naming import printable, to_locator
from rag_pipeline.sources.tree import Entry, Facts

_VERSIONS = (
    "etag",
    "checksum",
    "md5hash",
    "contentmd5",
    "crc32c",
    "generation",
    "versionid",
    "sha",
    "digest",
)
_TIMES = ("lastmodified", "mtime", "modified", "updated", "created")
"""Names of versions and times in file systems, in lower case without `-` and `_`. The first one present counts."""


class RemoteTree:
    """A `Tree` at the fsspec URL of a source."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def identity(self) -> Hashable:
        """Return the URL, since a remote root stays the same. Raises `SourceError` if it is unreachable."""
        # fsspec caches listings in the process, some of them without expiry.
        self._fs.invalidate_cache()
        try:
            with self._plain_errors():
                info = self._fs.info(self._root)
        except FileNotFoundError:
            raise self._error(f"does not exist: correct `path` in {self._config.listed_in}") from None
        except OSError as error:
            raise self._error(f"is unreachable: {error.strerror}") from None
        # Over http everything is a file, and only its content shows whether it lists anything.
        if info.get("type") == "file" and not self._config.path.startswith("http"):
            raise self._error(f"is not a folder: set `path` in {self._config.listed_in} to a folder")
        return self._config.path

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder. Raises `OSError` with a plain reason."""
        path = self._path(folder)
        with self._plain_errors():
            listed = self._fs.ls(path, detail=True)
        found = {}
        for info in listed:
            full = info["name"].rstrip("/")
            name = full.rpartition("/")[2]
            # Object stores list the marker of the folder itself, and web pages link anywhere.
            if name and full.strip("/") == f"{path}/{name}".strip("/"):
                is_folder = info.get("type") == "directory"
                found[name, is_folder] = Entry(name, is_folder, partial(self._facts, info))
        return list(found.values())

    @contextmanager
    def open(self, path: str) -> Iterator[tuple[BinaryIO, int | None]]:
        """Open a file; yields the file and its size. Raises `OSError` with a plain reason, also during reading."""
        with self._plain_errors(), self._fs.open(self._path(path), "rb") as file:
            yield file, getattr(file, "size", None)

    def is_listed(self, path: str) -> bool:
        """Return True without asking: a web page goes on listing what does not exist."""
        return True

    def url(self, path: str) -> str:
        """Return the fsspec URL; in an archive, `zip://file::…` with the rest of the chain."""
        first, chain, rest = self._config.path.partition("::")
        return f"{first.rstrip('/')}/{to_locator(path)}{chain}{rest}"

    @property
    def _fs(self) -> Any:
        return self._file_system[0]

    @property
    def _root(self) -> str:
        return self._file_system[1]

    @cached_property
    def _file_system(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        options = self._config.open_storage_options()
        try:
            fs, root = url_to_fs(self._config.path, **options, skip_instance_cache=True)
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or self._config.path.partition("://")[0]
            raise self._error(f"needs the package {package}: pip install {package}") from None
        except Exception as error:  # each file system has its own exceptions
            raise self._error(f"cannot be opened: {self._plain(error)}") from None
        return fs, root.rstrip("/") or root

    def _path(self, path: str) -> str:
        # The root of an archive is "", the root of a server "/".
        return f"{self._root.rstrip('/')}/{path}" if self._root and path else self._root or path

    def _facts(self, info: dict[str, Any]) -> Facts:
        if _version(info) is None and _modified_at(info) is None:  # http lists names only
            with self._plain_errors():
                info = self._fs.info(info["name"])
        size, modified_at = info.get("size"), _modified_at(info)
        # If a file system has neither version nor time, an edit that keeps the size goes unnoticed.
        version = _version(info) or (modified_at.isoformat() if modified_at else "no version")
        return Facts(f"{size}-{version}", size, modified_at)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "does not exist") from None
        except PermissionError:
            raise PermissionError(errno.EACCES, "permission denied") from None
        except Exception as error:  # each file system has its own exceptions
            raise OSError(errno.EIO, self._plain(error)) from None

    def _plain(self, error: Exception) -> str:
        return self._config.redacted(one_line(error, 300))

    def _error(self, reason: str) -> SourceError:
        return SourceError(f"source {self._config.name}: {printable(self._config.path)} {reason}")


def _version(info: dict[str, Any]) -> str | None:
    known = _normalised(info)
    return next((str(known[key]) for key in _VERSIONS if known.get(key)), None)


def _modified_at(info: dict[str, Any]) -> datetime | None:
    known = _normalised(info)
    return next((_moment(known[key]) for key in _TIMES if known.get(key)), None)


def _normalised(info: dict[str, Any]) -> dict[str, Any]:
    return {key.lower().replace("-", "").replace("_", ""): value for key, value in info.items()}


def _moment(value: object) -> datetime | None:
    """Return a time in UTC, from a datetime, Unix seconds, ISO 8601, or the date of an HTTP header; else None."""
    try:
        if isinstance(value, str):
            value = email.utils.parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
        if isinstance(value, int | float):
            value = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
