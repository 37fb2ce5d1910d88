"""Parsing in processes of its own, which are killed at a deadline and have a limit of memory.

A small file can keep a parser busy for ever or make it allocate without end, and no library for PDF, HTML or DOCX can
be interrupted. So such a document is parsed by a `parse_worker`, and when that has to be killed, or crashes, the document
is to blame and nothing else is affected. Workers also parse on all cores at once, which threads cannot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import Pipe
from threading import BoundedSemaphore, Lock
from typing import Any

from rag_pipeline.documents.parsing import parser
from rag_pipeline.documents.parsing.parsed_document import ParsedDocument
from rag_pipeline.errors import DocumentError, RagError

_START_SECONDS = 60
"""How long a worker may take to start, however busy the machine is."""
_CLOSED = "documents cannot be parsed any more: the pipeline has been closed"


class ParserPool:
    """Parses documents, from several threads. Workers start when they are needed and end with `close`.

    A document that takes more than `seconds` or `memory_mb` is a `DocumentError`. The memory is the address space of a
    worker, about 300 MB of it the worker's own; it is limited on Linux only.
    """

    def __init__(self, workers: int, seconds: float, memory_mb: int) -> None:
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._free = BoundedSemaphore(min(workers, os.cpu_count() or 1))
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._is_closed = False

    def parse(self, data: bytes, name: str, *, language: str | None = None) -> ParsedDocument:
        """Return what `parser.parse` returns. A short text, which cannot take long, is parsed in this process."""
        if parser.is_quick(data, name):
            return parser.parse(data, name, language=language)
        fields = self._ask({"what": "document", "name": name, "language": language}, data)["document"]
        return ParsedDocument(**fields | {"tags": tuple(fields["tags"]), "warnings": tuple(fields["warnings"])})

    def created_at(self, data: bytes, name: str) -> datetime | None:
        """Return what `parser.created_at` returns. Raises a `DocumentError` if the document exceeds a limit."""
        if not parser.needs_whole_file(name):
            return parser.created_at(data, name)
        date = self._ask({"what": "date", "name": name}, data)["date"]
        return datetime.fromisoformat(date) if date else None

    def close(self) -> None:
        """End all workers. Whoever is waiting for one gets a `RagError` that does not blame the document."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for worker in busy:
            worker.kill()  # its connection is closed by whoever is waiting for the answer
        for worker in idle:
            worker.close()

    def _ask(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        with self._worker() as worker:
            answer = worker.ask(request, data, self._seconds)
        if "crashed" in answer and self._is_closed:
            raise RagError(_CLOSED)
        if "error" in answer:
            raise DocumentError(answer["error"])
        name = parser.shown_name(request["name"])
        if "overdue" in answer:
            raise DocumentError(
                f"{name}: parsing takes more than RAG_PARSE_SECONDS ({self._seconds:g}): split the document, or raise it"
            )
        if "out_of_memory" in answer:
            raise DocumentError(
                f"{name}: parsing takes more memory than RAG_PARSE_MEMORY_MB ({self._memory_mb}): split the document, "
                "or raise it"
            )
        if "crashed" in answer:
            raise DocumentError(
                f"{name}: the parser crashed ({answer['crashed']}), perhaps because RAG_PARSE_MEMORY_MB "
                f"({self._memory_mb}) is not enough: save the document again, or raise it"
            )
        return answer

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """Lend a worker that is not in use, or a new one. It is kept afterwards unless it has ended."""
        with self._free:
            worker = self._living() or _Worker(self._memory_mb, self._seconds)
            with self._lock:
                self._busy.add(worker)
                is_closed = self._is_closed
            try:
                if is_closed:
                    raise RagError(_CLOSED)
                yield worker
            finally:
                with self._lock:
                    self._busy.discard(worker)
                    is_kept = worker.is_alive() and not self._is_closed
                    if is_kept:
                        self._idle.append(worker)
                if not is_kept:
                    worker.close()

    def _living(self) -> _Worker | None:
        """Return an idle worker. One that something else has killed, such as the system, is dropped."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive():
                    return worker
                worker.close()
        return None


class _Worker:
    """The parent's end of a `parse_worker`."""

    def __init__(self, memory_mb: int, seconds: float) -> None:
        command = [sys.executable, "-P", "-m", "rag_pipeline.documents.parsing.parse_worker"]
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(os.getpid()), str(memory_mb), str(seconds)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # Ctrl-C is for the parent, which then ends its workers
            )
        try:
            is_ready = self._connection.poll(_START_SECONDS) and self._connection.recv_bytes() == b"ready"
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.close()
            raise RagError(
                f"the process that parses documents does not start ({_how_it_ended(self._process.returncode)}): "
                f"run `{' '.join(command)}` to see why"
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], data: bytes, seconds: float) -> dict[str, Any]:
        """Send a request and return the answer. The worker is dead afterwards if it gave none, or its last."""
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            self._connection.send_bytes(data)
            if not self._connection.poll(seconds):
                self.kill()
                return {"overdue": True}
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            self.kill()
            return {"crashed": _how_it_ended(self._process.returncode)}
        except BaseException:
            self.kill()
            raise
        if answer["last"]:
            self.kill()
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._connection.close()


def _environment() -> dict[str, str]:
    """Return what a worker needs to import this package. Passwords in other variables are not for it."""
    kept = {name: value for name in ("LD_LIBRARY_PATH", "LANG") if (value := os.environ.get(name))}
    # NumPy would reserve memory for a thread on each core.
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
