"""A process that parses documents for a `ParserPool`, with the pool's process id and limits as arguments.

It speaks over a socket that is its standard input. A request is two messages, a JSON object and the bytes of a
document; the answer is one JSON object. JSON and not pickle: what a hostile document might make of this process must not be able
to run anything in its parent.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rag_pipeline.documents.parsing import parser
from rag_pipeline.errors import DocumentError, one_line

_GRACE = 10.0
"""Seconds after the deadline at which a worker ends itself, if nobody else has."""


def main() -> None:
    parent, memory_mb, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if sys.platform == "linux":  # elsewhere the system ignores or refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = Connection(sys.stdin.fileno())
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
            # A thread cannot run while a regular expression or a library holds the interpreter; this signal ends the
            # process even then, with or without a parent.
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
            answer = _answer(connection.recv_bytes(), request)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Memory that was used once is not all given back, and the next document should find as much as this one did.
        answer["last"] = _peak_mb() * 2 > memory_mb or "out_of_memory" in answer
        connection.send_bytes(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))


def _answer(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["what"] == "date":
            moment = parser.created_at(data, request["name"])
            return {"date": moment.isoformat() if moment else None}
        return {"document": asdict(parser.parse(data, request["name"], language=request["language"]))}
    except DocumentError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"out_of_memory": True}
    except Exception as error:  # of a library, on a document that it was not made for
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        return {"error": f"{parser.shown_name(request['name'])}: the parser failed ({reason}): save it again"}


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however that happened."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _peak_mb() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
    # On Linux `ru_maxrss` outlives exec: a worker of a large parent would begin with its parent's peak.
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


if __name__ == "__main__":
    main()
