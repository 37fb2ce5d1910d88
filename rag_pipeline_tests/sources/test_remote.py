"""The connector over fsspec: the in-memory file system, archives, and unreachable servers."""

from __future__ import annotations

import importlib.util
import socket
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_pipeline.errors import DocumentError, SourceError
from rag_pipeline.sources import connect
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.interface import Item, Source
from rag_pipeline.sources.naming import from_locator


@pytest.fixture
def root() -> Iterator[str]:
    """A fresh folder in fsspec's in-memory file system."""
    url = f"memory://tests-{uuid.uuid4().hex}"
    yield url
    memory = fsspec.filesystem("memory")
    if memory.exists(url):
        memory.rm(url, recursive=True)


def source(url: str, **fields: object) -> Source:
    return connect(SourceConfig.model_validate({"name": "bucket", "type": "filesystem", "path": url} | fields))


def items(connector: Source, after: str | None = None) -> list[Item]:
    found = list(connector.scan(after))
    assert all(isinstance(one, Item) for one in found)
    return found  # type: ignore[return-value]


def put(url: str, **files: bytes) -> None:
    memory = fsspec.filesystem("memory")
    for path, data in files.items():
        memory.pipe_file(f"{url}/{path}", data)


def test_items_of_a_remote_folder(root: str) -> None:
    put(root, **{"規程/旅費.md": b"travel", "a.md": b"first", "x.png": b"", ".git/c.md": b""})
    connector = source(root + "/")
    first, second = items(connector)
    assert (first.locator, second.locator) == ("a.md", "規程/旅費.md")
    assert second.source_id == "bucket:規程/旅費.md"
    assert second.url == f"{root}/規程/旅費.md"
    assert second.size == 6
    assert second.modified_at is not None
    assert second.modified_at.utcoffset() is not None
    assert connector.fetch(second.locator, 6) == b"travel"
    assert connector.head(second.locator, 2) == b"tr"


def test_a_change_changes_the_fingerprint(root: str) -> None:
    put(root, **{"a.md": b"old", "b.md": b"same"})
    connector = source(root)
    before = [item.fingerprint for item in items(connector)]
    put(root, **{"a.md": b"new"})
    after = [item.fingerprint for item in items(connector)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_failed_fetch_gives_the_reason(root: str) -> None:
    put(root, **{"a.md": b"12345678", "b.md": b""})
    connector = source(root)
    with pytest.raises(DocumentError, match=r"bucket:a.md is 8 bytes, over the limit of 7 bytes"):
        connector.fetch("a.md", 7)
    with pytest.raises(DocumentError, match=r"bucket:c.md does not exist"):
        connector.fetch("c.md", 7)
    fsspec.filesystem("memory").rm(root, recursive=True)
    with pytest.raises(SourceError, match=r"source bucket: memory://.* does not exist: correct `path`"):
        connector.fetch("a.md", 7)


def test_a_root_that_is_missing_or_a_file_is_rejected(root: str) -> None:
    with pytest.raises(SourceError, match=r"source bucket: memory://.* does not exist: correct `path`"):
        list(source(root).scan())
    put(root, **{"a.md": b""})
    with pytest.raises(SourceError, match=r"source bucket: memory://.*/a\.md is not a folder"):
        list(source(root + "/a.md").scan())


PATHS = st.lists(st.text("ab -.0\\あ🗂\ud800", min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(PATHS.filter(lambda path: not any(part.startswith(".") for part in path.split("/"))), min_size=1))
def test_every_object_is_found_once_in_order_and_a_scan_continues_anywhere(tree: set[str]) -> None:
    url = f"memory://tests-{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    # This file system cannot list anything below a file.
    written = {path for path in tree if not any(path.startswith(f"{other}/") for other in tree)}
    for path in written:
        memory.pipe_file(f"{url}/{path}", b"x")
    try:
        connector = source(url, include=["**"])
        found = items(connector)
        keys = [item.key for item in found]
        assert {from_locator(item.locator) for item in found} == written
        assert keys == sorted(keys)
        assert len({item.source_id for item in found}) == len(found)
        for number, key in enumerate(keys):
            assert items(connector, after=key) == found[number + 1 :]
    finally:
        memory.rm(url, recursive=True)


def test_an_archive_is_a_folder_too(tmp_path: Path) -> None:
    archive = tmp_path / "docs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("docs/ja/a.md", "一")
        file.writestr("docs/b.md", "two")
        file.writestr("other/c.md", "three")
    url = f"zip://docs::file://{archive}"
    first, second = items(source(url))
    assert (first.locator, second.locator) == ("b.md", "ja/a.md")
    assert second.url == f"zip://docs/ja/a.md::file://{archive}"
    assert source(url).fetch("ja/a.md", 10) == "一".encode()
    assert [item.locator for item in items(source(f"zip://::file://{archive}"))][-1] == "other/c.md"


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(SourceError, match="source bucket: s3://docs needs the package s3fs: pip install s3fs"):
        list(source("s3://docs").scan())


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(
        SourceError, match="source bucket: nosuch://docs cannot be opened: Protocol not known: nosuch"
    ):
        list(source("nosuch://docs").scan())


def test_an_unreachable_server_is_a_source_error_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_FTP_PASSWORD", "hunter2")
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"ftp://reader@127.0.0.1:{held.getsockname()[1]}/docs"
        connector = source(url, storage_options={"password": "${TEST_FTP_PASSWORD}"})
        for attempt in (lambda: list(connector.scan()), lambda: connector.fetch("a.md", 10)):
            with pytest.raises(
                SourceError, match=r"source bucket: ftp://.* cannot be opened: .*refused"
            ) as raised:
                attempt()
            assert "hunter2" not in str(raised.value)
