"""Saga: a series of steps over several stores, each with its compensation.

There is no transaction across PostgreSQL and Milvus. Each step that succeeds registers what undoes it; on a failure
the compensations run in reverse order. (Garcia-Molina and Salem, "Sagas", SIGMOD 1987.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rag_pipeline.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_log = logging.getLogger(__name__)


class Saga:
    """Used as a context: an error inside runs the compensations, newest first, and is raised again.

    A compensation that itself fails is logged, and the others still run: the first error is the one raised.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._compensations: list[tuple[str, Callable[[], object]]] = []

    def on_failure(self, what: str, compensation: Callable[[], object]) -> None:
        """Register what undoes a step. Do so before the step: a step that failed half-way needs undoing too."""
        self._compensations.append((what, compensation))

    def __enter__(self) -> Saga:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        for what, compensation in reversed(self._compensations):
            try:
                compensation()
            except Exception as failure:
                # The next run finds what this leaves: rows marked `processing`, written again under the same keys.
                _log.warning("%s: could not %s: %s", self._name, what, one_line(failure))
