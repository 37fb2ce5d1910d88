"""What sources ask for, from `sources.yaml` into PostgreSQL: a change of the file holds within seconds.

Scans store it too, when they are due. An entry with a mistake changes nothing.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError, one_line
from rag_pipeline.sources.config import read_sources
from rag_pipeline.stores.postgres import sources

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


class SourceAccess:
    """Reads the file whenever it has changed, from a thread of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._path = pipeline.settings.sources
        self._seen: tuple[int, int] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access", daemon=True)

    def start(self) -> None:
        """Store what the file says now; then watch it."""
        self.update()
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def update(self) -> None:
        """Store what the sources ask for, if the file has changed."""
        try:
            status = self._path.stat()
        except OSError:
            return  # A service beside a remote index may have no file; what is stored holds.
        state = status.st_mtime_ns, status.st_size
        if state == self._seen:
            return
        wanted = [(source.type, source.name, source.access) for source in read_sources(self._path).sources]
        try:
            with self._pipeline.stores.database.connection() as connection:
                changed = sources.set_access(connection, wanted)
        except RagError as error:
            _log.warning("what %s asks for is not stored yet: %s", self._path, one_line(error))
            return
        self._seen = state
        if changed:
            _log.info("%s: the access of %s sources has changed", self._path, changed)

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.update()
