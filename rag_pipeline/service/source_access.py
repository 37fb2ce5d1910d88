"""Has a change of `access` in `sources.yaml` hold within seconds. Scans store it too, when they are due."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from rag_pipeline.errors import one_line
from rag_pipeline.indexing.source_access import store_access
from rag_pipeline.sources.config import read_sources

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


class SourceAccess:
    """Stores what the file says every two seconds, from a thread of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._path = pipeline.settings.sources
        self._said: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access", daemon=True)

    def start(self) -> None:
        """Store what the file says now; then go on."""
        self.update()
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def update(self) -> None:
        """Store what the sources ask for. A service beside a remote index may have no file; what is stored holds."""
        if not self._path.exists():
            return
        try:
            # A source whose entry has a mistake keeps what is stored: say so, it may have been meant to hide it.
            file = read_sources(self._path)
            mistakes = {entry.message for entry in file.invalid}
            for message in mistakes - self._said:
                _log.warning("the access of this source stays as it was: %s", message)
            self._said = mistakes
            with self._pipeline.stores.database.connection() as connection:
                changed = store_access(connection, file)
        except Exception as error:
            # Whatever it is, the next attempt comes in two seconds; without this thread no change would ever hold.
            _log.warning("what %s asks for is not stored yet: %s", self._path, one_line(error))
        else:
            for name, access in changed.items():
                needed = f"needs {', '.join(access)}" if access else "is open to all who may search"
                _log.warning("%s: the source %s %s now", self._path, name, needed)

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.update()
