"""The connector over real folders: what it finds, in which order, and its reasons for what it cannot read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_pipeline.errors import DocumentError, SourceError, VanishedError
from rag_pipeline.sources import connect
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.interface import Item, ScanProblem, Source
from rag_pipeline.sources.naming import from_locator
from rag_pipeline.sources.not_included import described


def source(folder: Path | str, **fields: object) -> Source:
    fields = {"name": "handbook", "type": "filesystem", "path": str(folder)} | fields
    return connect(SourceConfig.model_validate(fields))


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {path}", encoding="utf-8")


def items(connector: Source, after: str | None = None) -> list[Item]:
    found = list(connector.scan(after))
    assert all(isinstance(one, Item) for one in found)
    return found  # type: ignore[return-value]


def paths(connector: Source) -> list[str]:
    return [item.locator for item in items(connector)]


def refusal(connector: Source, locator: str, max_bytes: int = 1000) -> str:
    with pytest.raises(DocumentError) as raised:
        connector.fetch(locator, max_bytes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_item_holds_everything_known_without_reading(tmp_path: Path) -> None:
    write(tmp_path, "規程/旅費　規程.md")
    file = tmp_path / "規程/旅費　規程.md"
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    (item,) = items(source(tmp_path))
    assert item.source_id == "handbook:規程/旅費　規程.md"
    assert item.name == "旅費　規程.md"
    assert item.size == file.stat().st_size
    assert item.older_fingerprint == f"{item.size}-1700000000123456789"
    assert item.fingerprint == f"{item.older_fingerprint}-{file.stat().st_ctime_ns}"
    assert item.modified_at is not None
    assert item.modified_at.utcoffset() is not None
    assert abs((item.modified_at - datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)).total_seconds()) < 1e-5
    assert item.url is not None
    assert unquote_to_bytes(item.url) == f"file://{file}".encode()


def test_the_fingerprint_changes_with_the_content_even_if_size_and_time_do_not(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.md", "c.md")
    for name in ("a.md", "b.md"):
        os.utime(tmp_path / name, ns=(0, 10**18))
    connector = source(tmp_path)
    before = {item.name: item for item in items(connector)}
    os.utime(tmp_path / "c.md", ns=(0, 10**18))
    (tmp_path / "b.md").write_text("CONTENT of b.md", encoding="utf-8")
    os.utime(tmp_path / "b.md", ns=(0, 10**18))
    after = {item.name: item for item in items(connector)}
    assert after["a.md"] == before["a.md"]
    assert after["b.md"].older_fingerprint == before["b.md"].older_fingerprint
    assert after["b.md"].fingerprint != before["b.md"].fingerprint
    assert after["c.md"].fingerprint != before["c.md"].fingerprint


def test_by_default_supported_formats_are_found_and_nothing_hidden(tmp_path: Path) -> None:
    wanted = ["a.docx", "a.htm", "a.html", "a.markdown", "a.md", "a.pdf", "a.txt", "x/y/b.md"]
    upper = ["MEMO.Md", "README.TXT", "報告書.PDF"]
    write(tmp_path, *wanted, *upper, "a.png", "md", ".hidden.md", ".git/c.md", "x/.y/d.md")
    write(tmp_path, "~$a.docx", "x/~$b.csv", ".~lock.a.docx#")  # What Word and LibreOffice lock documents with.
    connector = source(tmp_path)
    assert paths(connector) == sorted([*wanted, *upper])
    assert connector.not_included == {".png": 1, "without extension": 1}
    # A pattern that somebody wrote says what it says.
    written = source(tmp_path, include=["**/*.md", "**/*.pdf"], exclude=["*.docx"])
    assert paths(written) == ["a.md", "a.pdf", "x/y/b.md"]
    assert (written.not_included[".pdf"], ".docx" in written.not_included) == (1, False)


def test_what_is_not_included_is_counted_once_by_a_scan_that_continues(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "b.md", "c.CSV", "d/e.csv", "d/f.md", "d/g.xlsx", "h.md", "i.xlsx", "z.csv")
    whole, counts, after = source(tmp_path), Counter[str](), None
    found = items(whole)
    for _ in found:
        connector = source(tmp_path)
        after = next(connector.scan(after)).key
        counts.update(connector.not_included)
    last = source(tmp_path)
    assert items(last, after) == []
    counts.update(last.not_included)
    assert counts == whole.not_included == {".csv": 4, ".xlsx": 2}
    assert described(counts) == "4 .csv, 2 .xlsx"


def test_the_kinds_of_what_is_not_included_are_bounded(tmp_path: Path) -> None:
    write(tmp_path, *(f"{n:03}.{n}" for n in range(100)), "a.no extension", "b.png")
    connector = source(tmp_path)
    assert items(connector) == []
    assert len(connector.not_included) == 51
    assert sum(connector.not_included.values()) == 102
    assert described(connector.not_included).startswith("52 other, 1 .0, ")
    assert described(connector.not_included).endswith(", 41 more")


def test_patterns_select_files(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "drafts/b.md", "x/drafts/c.md", "x/d.md", "x/e.tmp.md", ".notes/f.md", ".g.md")
    assert paths(source(tmp_path, include=["**/*.md"], exclude=["**/drafts", "**/*.tmp.*"])) == [
        "a.md",
        "x/d.md",
    ]
    assert paths(source(tmp_path, include=["*.md", ".notes/**"])) == [".notes/f.md", "a.md"]
    assert paths(source(tmp_path, include=["**/*.md"], exclude=["x/", "drafts/**"])) == ["a.md"]
    assert paths(source(tmp_path, include=["x/*.md"])) == ["x/d.md", "x/e.tmp.md"]


def test_folders_without_possible_matches_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.md", "b/2.md", "b/c/3.md", "d/4.md", ".git/x/5.md", "drafts/6.md")
    listed = listed_folders(tmp_path, monkeypatch)
    assert len(items(source(tmp_path, exclude=["drafts"]))) == 4
    assert listed == ["", "a", "b", "b/c", "d"]
    listed.clear()
    assert [item.key for item in items(source(tmp_path, exclude=["drafts"]), after="b/c/3.md")] == ["d/4.md"]
    assert listed == ["", "b", "b/c", "d"]
    listed.clear()
    assert [item.key for item in items(source(tmp_path, include=["b/*.md"]))] == ["b/2.md"]
    assert listed == ["", "b"]


def listed_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the folders listed from now on, relative to the root."""
    listed: list[str] = []
    scandir = os.scandir

    def noted(path: bytes) -> object:
        listed.append(os.path.relpath(os.fsdecode(path), root).removeprefix("."))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    return listed


def test_five_thousand_files_are_listed_lazily(tmp_path: Path) -> None:
    for folder in range(50):
        write(tmp_path, *(f"{folder:02}/{number:03}.md" for number in range(100)))
    connector = source(tmp_path)
    scan = connector.scan()
    assert isinstance(first := next(scan), Item)
    assert first.key == "00/000.md"
    for file in (tmp_path / "49").iterdir():
        file.unlink()
    (tmp_path / "49").rmdir()
    write(tmp_path, "48/new.md")
    rest = [one.key for one in scan]
    assert len(rest) == 4900
    assert rest[-1] == "48/new.md"
    assert len(items(connector, after=rest[-2])) == 1


NAMES = (
    st.lists(
        st.sampled_from(
            [b"a", b"b", b" ", b"-", b".", b"0", b"\\", b"\n", b"\xff", b"\x01", "あ".encode(), "🗂".encode()]
        ),
        min_size=1,
        max_size=4,
    )
    .map(b"".join)
    .filter(lambda name: name not in (b".", b".."))
)
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_every_file_is_found_once_in_key_order_and_a_scan_continues_anywhere(
    tree: Sequence[Sequence[bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(folder)
        written = {}
        for parts in tree:
            path = b"/".join(parts)
            try:
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "xb") as file:
                    file.write(path)
            except OSError:  # a folder of that name exists, or the name is a dot
                continue
            if not any(part.startswith(b".") for part in parts):
                written[path.decode("utf-8", "surrogateescape")] = path
        connector = source(folder, include=["**"])
        found = items(connector)
        assert {from_locator(item.locator) for item in found} == set(written)
        assert len(found) == len(written) == len({item.source_id for item in found})
        keys = [item.key for item in found]
        assert keys == sorted(keys)
        for number, item in enumerate(found):
            assert items(connector, after=item.key) == found[number + 1 :]
            assert connector.fetch(item.locator, 1000) == written[from_locator(item.locator)]
        assert items(connector, after="b") == [item for item in found if item.key > "b"]


def test_a_file_and_folders_with_similar_names_are_in_key_order(tmp_path: Path) -> None:
    write(tmp_path, "a/z.md", "a-b/z.md", "a.md", "a0.md", "a b/z.md")
    assert paths(source(tmp_path)) == ["a b/z.md", "a-b/z.md", "a.md", "a/z.md", "a0.md"]


def test_names_and_paths_of_maximum_length(tmp_path: Path) -> None:
    component = "長" * 84 + "x"
    deep = "/".join([component] * 6)
    write(tmp_path, f"{deep}/a.md", f"{deep}/b.md", "y" * 252 + ".md")
    found = items(source(tmp_path))
    assert len({item.source_id for item in found}) == 3
    assert max(len(item.source_id) for item in found) <= 255
    assert [item.name for item in found] == ["y" * 252 + ".md", "a.md", "b.md"]
    assert source(tmp_path).fetch(found[1].locator, 10_000) == f"content of {deep}/a.md".encode()


def test_links_to_files_inside_are_followed_and_links_to_folders_inside_are_not(tmp_path: Path) -> None:
    write(tmp_path, "notes/real.txt", "notes/x.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "notes/real.txt")
    (tmp_path / "up").mkdir()
    (tmp_path / "up/relative.md").symlink_to("../notes/../link.md")
    (tmp_path / "folder").symlink_to(tmp_path / "notes")
    (tmp_path / "folder.md").symlink_to(tmp_path / "notes")
    (tmp_path / "loop").symlink_to(tmp_path)
    connector = source(tmp_path)
    assert paths(connector) == ["link.md", "notes/real.txt", "notes/x.md", "up/relative.md"]
    assert items(connector)[0].size == len("content of notes/real.txt")
    for locator in ("link.md", "up/relative.md"):
        assert connector.fetch(locator, 100) == b"content of notes/real.txt"


def test_a_root_that_is_a_link_is_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "real/a.md")
    (tmp_path / "root").symlink_to("real")
    assert source(tmp_path / "root").fetch("a.md", 100) == b"content of real/a.md"


def test_links_do_not_leave_the_folder_unless_the_source_follows_links(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    write(outside, "secret.md", "folder/x.md")
    write(inside, "a.md")
    write(tmp_path, "inside-too/x.md")
    (inside / "link.md").symlink_to(outside / "secret.md")
    (inside / "missing.md").symlink_to(outside / "missing.md")
    (inside / "relative.md").symlink_to("../inside-too/x.md")
    (inside / "twice.md").symlink_to("link.md")
    (inside / "folder").symlink_to(outside / "folder")
    (inside / "loop").symlink_to(inside)

    (inside / "link.png").symlink_to(outside / "picture.png")

    connector = source(inside)
    assert paths(connector) == ["a.md"]
    assert connector.not_included == {"links to outside": 4, "links to nowhere": 1}
    assert described(connector.not_included) == "4 links to outside, 1 link to nowhere"
    for locator in ("link.md", "missing.md", "relative.md", "twice.md", "folder/x.md"):
        # Followed by the scan before the setting was changed: the next scan finds that it is no item any more.
        with pytest.raises(VanishedError) as raised:
            connector.fetch(locator, 1000)
        assert str(raised.value) == (
            f"handbook:{locator} is a link to outside the source's folder: "
            "set follow_links: true for the source if it may be read"
        )

    following = source(inside, follow_links=True)
    assert paths(following) == ["a.md", "folder/x.md", "link.md", "missing.md", "relative.md", "twice.md"]
    assert following.fetch("link.md", 100) == b"content of secret.md"
    assert following.fetch("folder/x.md", 100) == b"content of folder/x.md"
    assert refusal(following, "missing.md") == "handbook:missing.md is a link that leads nowhere"
    assert following.not_included == {".png": 1}


def test_a_scan_that_follows_links_enters_no_folder_within_itself(tmp_path: Path) -> None:
    write(tmp_path, "docs/a/x.md", "docs/b/y.md")
    (tmp_path / "docs/a/to-b").symlink_to("../b")
    (tmp_path / "docs/b/to-a").symlink_to("../a")
    (tmp_path / "docs/up").symlink_to("..")
    found = paths(source(tmp_path / "docs", follow_links=True))
    assert found == ["a/to-b/y.md", "a/x.md", "b/to-a/x.md", "b/y.md"]


def test_a_file_swapped_for_a_link_during_a_fetch_is_never_read_outside(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    write(docs, "folder/a.md")
    write(tmp_path, "outside/a.md")
    (docs / "spare").symlink_to(tmp_path / "outside")
    (docs / "link.md").symlink_to("folder/a.md")
    connector, stop = source(docs), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, other in (("folder", "aside"), ("spare", "folder"), ("folder", "spare"), ("aside", "folder")):
                (docs / one).rename(docs / other)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        read = set()
        for locator in ["folder/a.md", "link.md"] * 2000:
            try:
                read.add(connector.fetch(locator, 100))
            except DocumentError:
                continue
    finally:
        stop.set()
        swapper.join()
    assert read == {b"content of folder/a.md"}


def test_broken_links_are_items_that_fail_with_a_reason(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    (tmp_path / "gone.md").symlink_to("nothing.md")
    (tmp_path / "self.md").symlink_to("self.md")
    (tmp_path / "through.md").symlink_to("a.md/b")
    connector = source(tmp_path)
    assert paths(connector) == ["a.md", "gone.md", "self.md", "through.md"]
    assert refusal(connector, "gone.md") == "handbook:gone.md is a link that leads nowhere"
    assert refusal(connector, "self.md") == "handbook:self.md is a symbolic link in a loop"
    assert refusal(connector, "through.md") == "handbook:through.md is a link that leads nowhere"
    for path in ("gone.md", "through.md"):
        with pytest.raises(DocumentError) as caught:
            connector.fetch(path, 1000)
        assert not isinstance(caught.value, VanishedError)
    broken = items(connector)[1].fingerprint
    write(tmp_path, "nothing.md")
    assert items(connector)[1].fingerprint != broken


def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "zero.md").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.md")
        connector = source(tmp_path, follow_links=True)
        assert paths(connector) == ["pipe.md", "socket.md", "zero.md"]
        for name in paths(connector):
            assert refusal(connector, name) == f"handbook:{name} is not a regular file"


def test_a_file_that_is_too_large_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    with (tmp_path / "large.pdf").open("wb") as file:
        file.truncate(52_400_000)
    connector = source(tmp_path)
    assert refusal(connector, "large.pdf", 32 * 1024 * 1024) == (
        "handbook:large.pdf is 52.4 MB, over the limit of 33.6 MB: raise RAG_MAX_DOCUMENT_BYTES or split it"
    )
    assert "52,400,000 bytes, over the limit of 52,399,999 bytes" in refusal(connector, "large.pdf", 52_399_999)
    assert len(connector.fetch("large.pdf", 52_400_000)) == 52_400_000


def test_only_the_beginning_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"0123456789")
    connector = source(tmp_path)
    assert connector.head("a.md", 4) == b"0123"
    assert connector.head("a.md", 100) == b"0123456789"
    with pytest.raises(DocumentError, match="does not exist"):
        connector.head("b.md", 4)


def test_a_missing_file_is_a_document_error_and_a_missing_root_a_source_error(
    tmp_path: Path,
) -> None:
    write(tmp_path, "docs/a.md", "docs/b.md")
    connector = source(tmp_path / "docs")
    (tmp_path / "docs/a.md").unlink()
    with pytest.raises(VanishedError, match=r"handbook:a.md does not exist any more"):
        connector.fetch("a.md", 1000)
    (tmp_path / "docs").rename(tmp_path / "elsewhere")
    with pytest.raises(
        SourceError, match=r"source handbook: .*/docs does not exist: mount it again if .*, or correct `path`"
    ):
        connector.fetch("b.md", 1000)


def test_a_root_that_is_missing_or_a_file_is_rejected_by_name(tmp_path: Path) -> None:
    write(tmp_path, "file.md")
    with pytest.raises(SourceError, match=rf"source handbook: {tmp_path}/nowhere does not exist: mount it"):
        list(source(tmp_path / "nowhere").scan())
    with pytest.raises(SourceError, match=rf"source handbook: {tmp_path}/file.md is not a folder"):
        list(source(tmp_path / "file.md").scan())


def test_an_empty_folder_has_no_items(tmp_path: Path) -> None:
    assert items(source(tmp_path)) == []


def test_a_pass_over_a_replaced_root_fails(tmp_path: Path) -> None:
    write(tmp_path, "docs/a/1.md", "docs/b/2.md")
    scan = source(tmp_path / "docs").scan()
    next(scan)
    (tmp_path / "docs").rename(tmp_path / "old")
    (tmp_path / "docs").mkdir()
    with pytest.raises(SourceError, match="replaced during the scan"):
        list(scan)


UNPRIVILEGED = """
import os, sys
from rag_pipeline.errors import DocumentError, SourceError
from rag_pipeline.sources import connect
from rag_pipeline.sources.config import SourceConfig
connector = connect(SourceConfig(name="handbook", type="filesystem", path="."))
if os.getuid() == 0:  # root reads everything
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
after = None
{body}
"""


def unprivileged(folder: Path, body: str) -> list[str]:
    """Return the lines that a program prints when an unprivileged user runs it in a folder."""
    folder.chmod(0o755)  # the working directory is kept, so its parents can stay closed to that user
    code = UNPRIVILEGED.format(body=body)
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_without_permission_is_a_problem_and_the_scan_continues(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b/1.md", "c/2.md", "d/3.md")
    (tmp_path / "b").chmod(0)
    (tmp_path / "d").chmod(0o444)  # names can be listed, but nothing else
    try:
        printed = unprivileged(tmp_path, "for one in connector.scan(): print(type(one).__name__, one)")
        resumed = unprivileged(tmp_path, "for one in connector.scan('b/'): print(one.key)")
        inside = unprivileged(tmp_path, "for one in connector.scan('b/1'): print(one.key)")
    finally:
        (tmp_path / "b").chmod(0o755)
        (tmp_path / "d").chmod(0o755)
    assert [line.split()[0] for line in printed] == ["Item", "ScanProblem", "Item", "ScanProblem"]
    assert printed[1] == f"ScanProblem {ScanProblem('b/', 'b', 'permission denied')}"
    assert printed[3] == f"ScanProblem {ScanProblem('d/3.md', 'd/3.md', 'permission denied')}"
    assert resumed == ["c/2.md", "d/3.md"]
    assert inside == ["b/", "c/2.md", "d/3.md"]


def test_a_file_without_permission_is_a_document_error(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    (tmp_path / "a.md").chmod(0)
    body = (
        "for one in connector.scan():\n try: connector.fetch(one.locator, 9)\n except DocumentError as e: print(e)"
    )
    assert unprivileged(tmp_path, body) == ["handbook:a.md cannot be read: permission denied"]


def test_a_root_without_permission_is_a_source_error(tmp_path: Path) -> None:
    write(tmp_path, "docs/a.md")
    (tmp_path / "docs").chmod(0)
    body = (
        'connector = connect(SourceConfig(name="handbook", type="filesystem", path="docs"))\n'
        "try: list(connector.scan())\nexcept SourceError as e: print(e)"
    )
    try:
        printed = unprivileged(tmp_path, body)
    finally:
        (tmp_path / "docs").chmod(0o755)
    assert printed == ["source handbook: docs cannot be listed: permission denied"]
