"""The process that holds a model for all runs of a machine: see `shared_model`, which starts it.

Called with the path of its socket and the options of the model as JSON. It loads the model with the first text, answers
each connection in a thread of its own, and ends when nobody has been connected for a while.

It greets with its pid. A message is `(texts, kinds)`, the answer `("vectors", list of ChunkVectors)` or
`("error", class, text)`, and before it `("busy",)` every few seconds: from a thread that does nothing else, so that its
silence says that the process is frozen, and not that the texts take long. They are pickled: only this user can enter the
folder of the socket.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from rag_pipeline.embedding.base import Embedder
from rag_pipeline.errors import RagError, one_line

IDLE_SECONDS = 30.0
BUSY_SECONDS = 5.0
_POLL_SECONDS = 1.0


def model_of(options: dict[str, Any]) -> Embedder:
    """Return the embedder that these options of `shared_model` describe.

    Raises `RagError` if its vectors would be others than those that are wanted: its folder has another model by now.
    """
    embedder: Embedder
    if options["embedder"] == "local":
        from rag_pipeline.embedding.local import LocalEmbedder

        embedder = LocalEmbedder(options["precision"], Path(options["folder"]))
    else:
        from rag_pipeline.embedding.bge_m3 import BgeM3Embedder

        embedder = BgeM3Embedder(options["model"], options["multi_vectors"])
    if embedder.fingerprint != options["fingerprint"]:
        raise RagError(f"this is {embedder.fingerprint}, and {options['fingerprint']} is wanted")
    return embedder


class _Users:
    """Those who are connected."""

    def __init__(self) -> None:
        self._count = 0
        self._left_at = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            self._left_at = time.monotonic()

    def are_gone(self, seconds: float) -> bool:
        """Whether there has been none for so long."""
        with self._lock:
            return not self._count and time.monotonic() - self._left_at > seconds


def serve(path: Path, embedder: Embedder, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answer until nobody has been connected for `idle_seconds`; then the process ends."""
    users = _Users()

    def end_when_idle() -> None:
        while not users.are_gone(idle_seconds):
            time.sleep(min(_POLL_SECONDS, idle_seconds / 2))
        # Who connects now is not answered, and starts another process. Whose socket it then is nobody knows: it stays.
        os._exit(0)

    with Listener(str(path), "AF_UNIX", backlog=64) as listener:
        threading.Thread(target=end_when_idle, daemon=True).start()
        while True:
            threading.Thread(target=_answer, args=(listener.accept(), embedder, users), daemon=True).start()


def _answer(connection: Connection, embedder: Embedder, users: _Users) -> None:
    """Answer one user until it leaves."""
    with users, connection, suppress(EOFError, OSError):  # It may leave at any time.
        connection.send(os.getpid())
        while True:
            texts, kinds = connection.recv()
            with _saying_busy(connection):
                answer = _encoded(embedder, texts, kinds)
            connection.send(answer)


@contextmanager
def _saying_busy(connection: Connection) -> Iterator[None]:
    """Meanwhile tell the user every few seconds that this process lives."""
    is_done = threading.Event()

    def say() -> None:
        with suppress(OSError):  # It has left.
            while not is_done.wait(BUSY_SECONDS):
                connection.send(("busy",))

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    try:
        yield
    finally:
        is_done.set()
        saying.join()  # Two threads must not write to it at once.


def _encoded(embedder: Embedder, texts: list[str], kinds: list[str]) -> tuple[Any, ...]:
    try:
        return "vectors", embedder.encode(texts, kinds)
    except RagError as error:
        return "error", type(error).__name__, str(error)
    except Exception as error:  # the user is told, and the others are still answered
        traceback.print_exc()
        return "error", RagError.__name__, f"{type(error).__name__}: {one_line(error)}"


if __name__ == "__main__":
    _, socket, described = sys.argv
    serve(Path(socket), model_of(json.loads(described)))
