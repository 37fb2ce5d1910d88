"""Loads the embedder of a generation that is about to go live, so that no search waits for a model at the switch."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from rag_pipeline.errors import one_line
from rag_pipeline.stores.postgres import generations

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


class NextGeneration:
    """Looks every two seconds, from a thread of its own, whether a switch has been announced."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._ready: set[int] = set()
        self._said = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="next generation", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no longer; a model that is being loaded is not waited for."""
        self._end.set()

    def look(self) -> None:
        """Embed something with what is announced, once. What fails is logged: the first search tries again."""
        try:
            with self._pipeline.stores.database.connection() as connection:
                announced = [row for row in generations.announced(connection) if row.id not in self._ready]
            for row in announced:
                with self._pipeline.beside(row) as other:
                    other.embedder.encode_query("to start", other.vectors)
                self._ready.add(row.id)
        except Exception as error:
            # Whatever it is, the next attempt comes in two seconds.
            reason = one_line(error)
            if reason != self._said:
                _log.warning("the embedder of the next generation is not loaded yet: %s", reason)
            self._said = reason
        else:
            self._said = ""

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.look()
