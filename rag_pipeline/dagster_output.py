"""What `rag-pipeline dev` shows of Dagster's output: a line for each event. A file in the home has it all.

Dagster writes a failed run as some ninety lines: each step that failed or was not started, and each exception twice with
its stack trace. Dagster writes to a file, not to a pipe, so that it goes on if `dev` is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from rag_pipeline.private_files import open_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

_POLL_SECONDS = 0.2
_MOST_BYTES = 64 << 20

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BEGIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|(DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:")
_TRACE = re.compile(
    r"$|\s|Stack Trace:|Traceback \(most recent|The above exception |During handling of the above "
    r"|\(Background on this error |(DETAIL|HINT):|>$"
)
_ERROR = re.compile(r"((\w+\.)+_?[A-Z]\w*|\w*(Error|Exception|Exit|Interrupt))(:+ |:*$)")
_OUTERMOST_LAST = re.compile(
    r"The above exception was the direct cause of |During handling of the above exception, "
)
"""Python's own traces end with the outermost exception, Dagster's with the root cause."""
_OURS = re.compile(r"rag_pipeline\.errors\.\w+: ")
_HIDDEN = re.compile(
    # The end of the run says it, or the line with the sensor's name.
    r" - STEP_FAILURE - | - Dependencies for step |Sensor tick caught an error|Schedule tick caught an error"
    # So does the line with a time: where psycopg2 has to connect again, Dagster makes a second logger of everything.
    r"|^(DEBUG|INFO|WARNING|ERROR|CRITICAL):dagster"
    # At the first start there are no older events.
    r"|No cursor for event type "
    # It is not so in a checkout, whose file is the one that `dev` uses; elsewhere `dev` says it.
    r"|Found a dagster instance configuration value \(dagster\.ya?ml\) in the current folder"
)

_NOISE = re.compile(
    # A step without a value says so, and pools of connections, whatever was interrupted.
    r"Emitting implicit Nothing for output |(closing returned|discarding closed) connection: "
    # The daemon asks once more after a source was removed and the code location loaded again.
    r"|Could not find sensor "
)
"""What says nothing to anybody, in an event or outside of one."""


class Condenser:
    """Turns lines of Dagster's output into those that are shown."""

    def __init__(self) -> None:
        self._event = ""
        """The event whose following lines are read; empty if none is."""
        self._error = ""
        """The exception below it that is its root cause, as far as it was read."""
        self._caused = False
        """Whether the exceptions that follow were caused by the one that was read."""

    def add(self, line: str) -> Iterator[str]:
        """Take the next line, without its end, and yield what is to be shown by now."""
        line = _COLOUR.sub("", line)
        if _BEGIN.match(line):
            yield from self.end()
            self._event = line
            self._caused = False
        elif self._event and _TRACE.match(line):
            self._caused = self._caused or bool(self._error and _OUTERMOST_LAST.match(line))
        elif self._event and _ERROR.match(line):
            if not self._caused:
                self._error = _OURS.sub("", line)
        elif not _TRACE.match(line):
            yield from self.end()
            if not _NOISE.search(line):
                yield line

    def end(self) -> Iterator[str]:
        """Yield the event that is being read: no more of it has come for a while."""
        if self._event and not _HIDDEN.search(self._event) and not _NOISE.search(self._event + self._error):
            yield f"{self._event.rstrip(' .:')}: {self._error}" if self._error else self._event
        self._event = self._error = ""


class DagsterOutput:
    """The file that Dagster writes to, and a thread that shows what is added to it. A context manager.

    At the start, and when it exceeds 64 MB, its content becomes that of a second file, with `.1` after its name. In the
    second case lines that are written at that moment can be lost: Dagster's processes keep their file open.
    """

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._show = show
        self._condenser = Condenser()
        self._rest = b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="dagster-output", daemon=True)

    def __enter__(self) -> IO[bytes]:
        """Return the file for Dagster's output and errors."""
        with suppress(FileNotFoundError):
            self._path.replace(self._older)
        # Appended to, so that what is written after it was emptied is at its beginning.
        self._file = open_private(self._path)
        self._reader = self._path.open("rb")
        self._thread.start()
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._reader.close()
        self._file.close()

    def _follow(self) -> None:
        quiet = False
        while not self._ended.wait(_POLL_SECONDS):
            added = self._read()
            if not added and not quiet:
                self._print(self._condenser.end())
            quiet = not added
        self._read()
        if self._rest:
            self._print(self._condenser.add(self._rest.decode("utf-8", "replace")))
        self._print(self._condenser.end())

    def _read(self) -> bool:
        """Show what was added; return whether anything was."""
        if os.fstat(self._reader.fileno()).st_size < self._reader.tell():
            self._reader.seek(0)  # somebody emptied it
        data = self._reader.read()
        if not data:
            return False
        if self._reader.tell() > _MOST_BYTES:
            data += self._roll_over()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._print(self._condenser.add(line.decode("utf-8", "replace").rstrip("\r")))
        return True

    def _roll_over(self) -> bytes:
        """Move what the file has to the second one, and return what has been added to it meanwhile."""
        # On a full disk the older part is lost, rather than that nothing is shown any more.
        with suppress(OSError):
            self._older.unlink(missing_ok=True)
            with open_private(self._older) as older, self._path.open("rb") as full:
                shutil.copyfileobj(full, older)
        added = self._reader.read()
        self._file.truncate(0)
        self._reader.seek(0)
        return added

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._show(line)
