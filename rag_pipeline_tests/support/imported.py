"""`rag-pipeline` in processes forked from one that has imported it: most of a command's time is the imports of Dagster and
pymilvus, and the tests run hundreds of commands.

    python -m rag_pipeline_tests.support.imported SOCKET

Each connection to the socket is one command: a line of JSON (arguments, environment, working directory) with the
descriptors of its standard output and error; the answer is its exit code. The process that forks has no threads and no
connections, and the child sets its environment before anything reads it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from rag_pipeline.cli import main
from rag_pipeline.stores.milvus.lean_pymilvus import import_pymilvus

_IMPORTED = ("dagster", "dagster_postgres", "rag_pipeline.indexing.ingest", "redis", "sudachipy")
"""Not `rag_pipeline.defs`: a command does without Dagster what it can do before that is imported."""


def run_imported(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes]
) -> int:
    """Run `rag-pipeline` and return its exit code, or the negative number of the signal that ended it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(240)
        connection.connect(str(_server()))
        command = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        socket.send_fds(connection, [b" "], [out.fileno(), err.fileno()])
        connection.sendall(json.dumps(command).encode() + b"\n")
        with connection.makefile() as answer:
            return int(answer.readline())


@cache
def _server() -> Path:
    """Start the process that forks, once for each process that runs tests, and return its socket."""
    folder = Path(tempfile.mkdtemp(prefix="rp-"))
    path = folder / "s"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(16)
    command = [sys.executable, "-m", __name__, str(listening.fileno())]
    process = subprocess.Popen(command, pass_fds=[listening.fileno()], stdin=subprocess.PIPE)
    listening.close()

    def end() -> None:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)
        folder.rmdir()

    atexit.register(end)
    return path


def _serve(listening: socket.socket) -> None:
    """Fork for each connection, until the process that started this one has ended."""
    for name in _IMPORTED:
        importlib.import_module(name)
    import_pymilvus()
    gc.freeze()
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        with connection:
            if os.fork() == 0:
                listening.close()
                _run(connection)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _run(connection: socket.socket) -> NoReturn:
    """Run the command that is asked for in a child, and answer how it ended."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile() as asked:
        command = json.loads(asked.readline())
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *descriptors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    sys.argv = ["rag-pipeline", *command["arguments"]]
    main()
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
