"""What is remembered: whole or not at all, for its owner only."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from rag_pipeline.errors import ConfigError, RagError
from rag_pipeline.local_servers.server_state import ServerStates, exclusive, write_private


def test_what_was_added_is_loaded_again(tmp_path: Path) -> None:
    state = ServerStates.load(tmp_path)
    added = [state.add("postgres"), state.add("redis")]
    state.add("milvus")
    assert ServerStates.load(tmp_path).model_dump() == state.model_dump()
    assert len(set(state.ports())) == 3
    assert len({part.password for part in added}) == 2
    assert all(len(part.password) >= 24 for part in added)
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


def test_a_changed_port_is_another_one_and_remembered(tmp_path: Path) -> None:
    state = ServerStates.load(tmp_path)
    part = state.add("redis")
    before = part.port
    state.change_port(part)
    assert part.port != before
    loaded = ServerStates.load(tmp_path).redis
    assert loaded is not None
    assert loaded.port == part.port
    assert loaded.password == part.password


def test_no_repr_has_a_password(tmp_path: Path) -> None:
    state = ServerStates.load(tmp_path)
    part = state.add("redis")
    assert part.password not in repr(state) + repr(part) + str(state)


@pytest.mark.parametrize(
    "content", ["", "{", '{"redis": {"port": 0, "password": "geheim"}}', '{"mysql": {}}', "[]"]
)
def test_a_damaged_file_is_named_and_not_quoted(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(ConfigError, match=r"stack\.json is damaged") as caught:
        ServerStates.load(tmp_path)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_private_file_is_private_from_the_start_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "private.new").write_text("left by a crash")
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(ConfigError, match=f"RAG_HOME {home} cannot be written"), exclusive(home, print):
            pass


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RagError, match="No space left on device") as caught, exclusive(tmp_path, print):
        Path("/dev/full").write_text("x")
    assert "\n" not in str(caught.value)


def test_the_lock_is_held_and_given_back(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with exclusive(tmp_path, lambda line: waits.set()):
            order.append("second")

    with exclusive(tmp_path, lambda line: order.append("waited")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
