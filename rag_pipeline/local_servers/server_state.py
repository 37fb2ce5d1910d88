"""What the embedded servers remember in `RAG_HOME/stack.json`: ports, passwords, and the folder of PostgreSQL's data.

The file holds passwords, so only its owner can read it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from rag_pipeline.errors import ConfigError, RagError
from rag_pipeline.local_servers.processes import free_port
from rag_pipeline.private_files import make_home, write_private


class ServerState(BaseModel):
    """The remembered state of one server."""

    model_config = ConfigDict(extra="forbid")

    port: int = Field(ge=1, le=65535)
    password: str = Field("", repr=False)
    folder: str | None = None
    """The folder of its data, if outside `RAG_HOME`."""


class ServerStates(BaseModel):
    """The remembered servers; a server is None until its first start."""

    model_config = ConfigDict(extra="forbid")

    postgres: ServerState | None = None
    redis: ServerState | None = None
    milvus: ServerState | None = None

    _path: Path = PrivateAttr()
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def load(cls, home: Path) -> ServerStates:
        """Return the state under `home`, or an empty one. Raises `ConfigError` if it cannot be read."""
        path = home / "stack.json"
        try:
            state = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            state = cls()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): run as its owner") from None
        except ValidationError:  # its text quotes the content, passwords included
            raise ConfigError(
                f"{path} is damaged: restore it from a copy, or remove {home} to start afresh"
            ) from None
        state._path = path
        return state

    def ports(self) -> list[int]:
        """Return the ports that are assigned."""
        return [server.port for server in (self.postgres, self.redis, self.milvus) if server]

    def add(self, key: str) -> ServerState:
        """Add a server and return its state, saved before the server is started with it."""
        server = ServerState(port=free_port(self.ports()), password=_new_password())
        setattr(self, key, server)
        self.save()
        return server

    def add_password(self, server: ServerState) -> None:
        """Give a password to a server that had none, and save it. Thread-safe."""
        with self._lock:
            server.password = _new_password()
            self._write()

    def change_port(self, server: ServerState) -> None:
        """Assign a server another free port and save it. Thread-safe."""
        with self._lock:
            server.port = free_port(self.ports())
            self._write()

    def save(self) -> None:
        """Save the state atomically."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        write_private(self._path, self.model_dump_json(indent=2, exclude_none=True) + "\n")


@contextmanager
def exclusive(home: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Create `home` and hold its lock, so that one `up` or `down` runs at a time.

    Raises `ConfigError` if `home` cannot be created or written, and `RagError` if the file system fails later, for
    example because it is full.
    """
    try:
        make_home(home)
        descriptor = os.open(home / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"RAG_HOME {home} cannot be written ({error.strerror}): set another folder") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another up or down of {home}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise RagError(
            f"{error.filename or home}: {error.strerror}: fix that, or set RAG_HOME to another folder"
        ) from None
    finally:
        os.close(descriptor)


def _new_password() -> str:
    return secrets.token_urlsafe(24)  # letters, digits, - and _: needs no quoting in a URL
