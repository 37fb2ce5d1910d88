"""`RAG_SHARED_MODEL`: the runs of a machine have their texts embedded by one process, which holds the model once.

In Dagster each month's run is a process, and several run side by side: with a model of 2 GB each has its own, and loads it
for half a minute. Here the first one starts a process that holds the model (`model_process`), the others find its
socket in the folder of the models, and it ends when the last has left. If it dies, the next call starts another one.

Queries keep a model of the process that asks: they must not wait for the texts of an ingest.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rag_pipeline import errors
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, Embedder
from rag_pipeline.embedding.loading import LoadingEmbedder
from rag_pipeline.embedding.query_batches import QueriesEmbedder
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.private_files import make_home, make_private_folder, open_private

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings

_log = logging.getLogger(__name__)

_MODULE = "rag_pipeline.embedding.model_process"
_NAMED = "RAG_SHARED_MODEL: the process of the model"
"""What errors call it."""
_START_SECONDS = 60.0
_SILENT_SECONDS = 60.0
"""A process that neither greets, nor reads, nor says that it is busy for so long is frozen: another one takes its place."""
_REMINDER_SECONDS = 60.0
_POLL_SECONDS = 0.02
_KEPT_SECONDS = 86_400.0
"""How long what a process has left is kept."""
_DEATHS = 2
"""As many processes may die over some texts; the memory may have been another program's."""
_MESSAGES = "2"
"""The version of what is sent: processes of another one are not understood."""
_LONGEST_PATH = 100
"""Of a socket; the system's limit is 104 or 108 bytes."""
_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_INHERITED = frozenset(
    {"PATH", "HOME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HF_HOME", "HF_HUB_OFFLINE"}
)
"""The variables that a process and libraries for models need; no other is for this one, since it can hold a secret."""
_ALSO_INHERITED = (
    *("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "OMP_", "MKL_", "KMP_", "OPENBLAS_"),
    *("TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TOKENIZERS_", "TRANSFORMERS_", "ORT_"),
)
"""Those whose names begin so."""


def shared_model(settings: Settings, own: Embedder) -> Embedder:
    """Return an embedder with the vectors of `own`, `local` or `bge-m3`, which loads its model with the first query only.

    Raises `ConfigError` if RAG_HOME is too long for the path of a socket, or the model has no tokenizer of its own.
    """
    folder = settings.home_path / "models"
    # With the fingerprint: another model in the same folder has a process of its own.
    options: dict[str, Any] = {"embedder": settings.embedder, "fingerprint": own.fingerprint}
    count_tokens: Callable[[str], int]
    if settings.embedder == "local":
        options |= {"precision": settings.local_precision, "folder": str(folder)}
        count_tokens = own.count_tokens
    else:
        from rag_pipeline.embedding.bge_m3_folder import find_model, token_counter

        model = find_model(settings.bge_m3_model).absolute()
        options |= {"model": str(model), "multi_vectors": settings.bge_m3_multi_vectors}
        count_tokens = token_counter(model)
    kind = _WithQueries if isinstance(own, QueriesEmbedder) else SharedModelEmbedder
    return kind(own, ModelProcess(folder, options), count_tokens)


class SharedModelEmbedder:
    """An `Embedder` whose texts another process embeds. Thread-safe, and usable in a forked child."""

    def __init__(self, own: Embedder, process: ModelProcess, count_tokens: Callable[[str], int]) -> None:
        self._own = own
        self._process = process
        self.count_tokens = count_tokens
        self.fingerprint = own.fingerprint
        self.dimension, self.multi_dimension = own.dimension, own.multi_dimension

    def load(self, *, for_queries: bool) -> None:
        """Load the vocabulary, or the model for queries."""
        if not for_queries:
            self.count_tokens("to start")
        elif isinstance(self._own, LoadingEmbedder):
            self._own.load(for_queries=True)

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return what the model's own `encode` does.

        Raises what it raises, and `StoreUnavailableError` if the process does not start, or dies twice over the texts.
        """
        return self._process.encode(texts, kinds)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query, by a model of this process."""
        return self._own.encode_query(text, kinds, document_frequency)


class _WithQueries(SharedModelEmbedder):
    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return the vectors of queries, by a model of this process."""
        assert isinstance(self._own, QueriesEmbedder)
        return self._own.encode_queries(texts, kinds, document_frequencies)


class ModelProcess:
    """The process of one model, as those who use it see it. It is started with the first text."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        """`folder` has its socket and its log, and only this user can enter it."""
        self._options = json.dumps(options, sort_keys=True)
        # Another version has a process of its own, and so have another host that shares the folder, and another GPU.
        devices = (os.environ.get(name, "") for name in _DEVICES)
        made_of = "\0".join(
            (self._options, version("rag-pipeline"), _MESSAGES, sys.executable, socket.gethostname(), *devices)
        )
        name = blake2b(made_of.encode(), digest_size=4).hexdigest()
        self._folder = folder.absolute()
        self.socket = self._folder / f"model-{name}.sock"
        self.log = self._folder / f"model-{name}.log"
        if len(os.fsencode(self.socket)) > _LONGEST_PATH:
            raise ConfigError(
                f"RAG_SHARED_MODEL: the path of a socket in {self._folder} is too long: give RAG_HOME a shorter one"
            )
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of the texts, in order."""
        if not texts:
            return []
        deaths = 0
        while deaths < _DEATHS:
            connection = self._taken()
            is_new = connection is None
            try:
                connection = connection or self._connected()
            except OSError as error:
                raise StoreUnavailableError(f"{_NAMED}: {one_line(error)}") from error
            try:
                answer = _answered(connection, texts, kinds)
            except BlockingIOError:  # It has been silent for too long.
                self._end(connection)
                self.close()
                deaths += 1
                continue
            except (EOFError, OSError):  # It has ended, idle or killed, and with it all that are connected to it.
                connection.close()
                self.close()
                deaths += is_new  # Of another one it is not known when it died.
                continue
            except BaseException:
                connection.close()  # An answer would be taken for that to the next texts.
                raise
            with self._lock:
                self._idle.append(connection)
            if answer[0] == "error":
                raise _error(*answer[1:])
            vectors: list[ChunkVectors] = answer[1]
            return vectors
        raise StoreUnavailableError(f"{_NAMED} ended twice while it embedded {len(texts)} texts: see {self.log}")

    def _end(self, connection: Connection) -> None:
        """End a process that does not answer: its other users wait for it as well, and it keeps its memory."""
        pid = _pid_of(connection)
        _log.warning(
            "%s (pid %s) has been silent for %g s: it is ended, and another one takes its place; if this is repeated, see "
            "%s and the memory of this machine, or unset RAG_SHARED_MODEL",
            _NAMED,
            pid,
            _SILENT_SECONDS,
            self.log,
        )
        with suppress(ProcessLookupError, PermissionError):
            if pid:
                os.kill(pid, signal.SIGKILL)
        connection.close()

    def close(self) -> None:
        """Leave it; the next call comes back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _taken(self) -> Connection | None:
        with self._lock:
            if self._pid != os.getpid():  # The connections are our parent's.
                self._pid, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None

    def _connected(self) -> Connection:
        """Connect to the process, and start it if there is none. Raises `OSError`."""
        self._ensure_private()
        with suppress(OSError):
            return self._greeted()
        with self._alone():
            with suppress(OSError):  # Another run has started it.
                return self._greeted()
            return self._started()

    def _ensure_private(self) -> None:
        """Make the folder, and refuse one in which somebody else could answer: what comes from there is unpickled."""
        make_home(self._folder.parent)
        make_private_folder(self._folder)
        found = self._folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"RAG_SHARED_MODEL: {self._folder} belongs to another user, or others can enter it: take it over "
                "(chown, chmod 700), or unset RAG_SHARED_MODEL"
            )

    def _greeted(self) -> Connection:
        """Connect to a process that lives: one that is going down accepts connections for some time. Raises `OSError`."""
        connection = _connection_to(self.socket)
        try:
            connection.recv()
        except EOFError:
            connection.close()
            raise ConnectionResetError(f"{_NAMED} is going down") from None
        except BlockingIOError:
            self._end(connection)
            raise TimeoutError(f"{_NAMED} does not answer") from None
        except OSError:
            connection.close()
            raise
        return connection

    def _started(self) -> Connection:
        self._tidy()
        # Of one that has ended or hangs: who waits for the new one must not wait for that.
        self.socket.unlink(missing_ok=True)
        with open_private(self.log) as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, self.socket, self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # It outlives us: others use it, and Ctrl-C is for us alone.
            )
        # Else it would be a zombie from its end to ours.
        threading.Thread(target=process.wait, daemon=True).start()
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                return self._greeted()
            if process.poll() is not None:
                raise StoreUnavailableError(
                    f"{_NAMED} does not start (exit code {process.returncode}): see {self.log}"
                )
            time.sleep(_POLL_SECONDS)
        process.kill()
        raise StoreUnavailableError(f"{_NAMED} does not start within {_START_SECONDS:g} s: see {self.log}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one run at a time look whether there is a process, and start it."""
        deadline = time.monotonic() + _SILENT_SECONDS + _START_SECONDS
        while True:
            path = self.socket.with_suffix(".lock")
            with open_private(path) as file:
                if _has_locked(file, path):
                    yield
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"another run has been starting it for {_SILENT_SECONDS + _START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def _tidy(self) -> None:
        """Remove what other processes have left, such as those of older versions, if they are gone for a day.

        Not at once: an error may just have named the log.
        """
        for lock in self._folder.glob("model-*.lock"):
            files = [lock.with_suffix(suffix) for suffix in (".sock", ".log", ".lock")]
            with suppress(OSError), lock.open("rb") as file:  # Another run can be removing them too.
                used_at = max(path.stat().st_mtime for path in files if path.exists())
                is_old = lock != self.socket.with_suffix(".lock") and time.time() - used_at > _KEPT_SECONDS
                if is_old and _has_locked(file, lock) and not _accepts(files[0]):
                    for path in files:
                        path.unlink(missing_ok=True)


def _has_locked(file: IO[Any], path: Path) -> bool:
    """Whether the lock that was opened at a path is ours now, and was not removed meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _accepts(path: Path) -> bool:
    """Whether a process listens at this socket."""
    with socket.socket(socket.AF_UNIX) as connecting:
        connecting.settimeout(1)
        try:
            connecting.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
        return True


def _connection_to(path: Path) -> Connection:
    """Connect to a process. What is read and written then raises `BlockingIOError` after `_SILENT_SECONDS` without a byte."""
    connecting = socket.socket(socket.AF_UNIX)
    try:
        connecting.settimeout(_SILENT_SECONDS)
        connecting.connect(str(path))
        connecting.setblocking(True)
        seconds, rest = divmod(_SILENT_SECONDS, 1)
        limit = struct.pack("@ll", int(seconds), int(rest * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connecting.setsockopt(socket.SOL_SOCKET, option, limit)
        return Connection(connecting.detach())
    finally:
        connecting.close()


def _pid_of(connection: Connection) -> int:
    """Return the pid of the process at the other end; 0 if it is not one of this container's, or not known here."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        pid: int = struct.unpack("@iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def _answered(connection: Connection, texts: Sequence[str], kinds: Sequence[str]) -> tuple[Any, ...]:
    """Return the answer to some texts. Raises `BlockingIOError` if the process is silent for `_SILENT_SECONDS`."""
    connection.send((list(texts), list(kinds)))
    remind_at = time.monotonic() + _REMINDER_SECONDS
    while True:
        answer: tuple[Any, ...] = connection.recv()
        if answer[0] != "busy":
            return answer
        if time.monotonic() > remind_at:
            _log.warning("%s still embeds %s texts", _NAMED, len(texts))
            remind_at += _REMINDER_SECONDS


def _environment() -> dict[str, str]:
    """Return what the libraries of a model need of our environment, and none of our settings and secrets."""
    kept = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_ALSO_INHERITED)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _error(kind: str, text: str) -> RagError:
    """Return the error that the model has raised."""
    found: type[RagError] = getattr(errors, kind, RagError)
    return found.saying(text)
