"""Tally: what an ingest did, and how long each stage took. Counted by the steps, printed by the command line."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Tally:
    """Counts of one ingest, or of one month's run; seconds are wall time, and stages that run side by side overlap."""

    scanned: int = 0
    new: int = 0
    changed: int = 0
    deleted: int = 0
    failed: int = 0
    documents: int = 0
    """Documents stored, new or changed."""
    chunks: int = 0
    """Chunks added."""
    retired: int = 0
    """Chunks dropped."""
    embedded: int = 0
    """Chunks that the embedder was asked for."""
    reused: int = 0
    """Chunks whose vectors came from the cache."""
    restated: int = 0
    """Chunks that only moved: their rows were written anew with the stored vectors."""
    failed_chunks: int = 0
    vectors_deleted: int = 0
    """Chunks whose vectors left Milvus."""
    problems: list[str] = field(default_factory=list)
    """What a person has to mend, one line each, and no document is to blame for: a source that is out of reach."""
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def as_json(self) -> dict[str, Any]:
        """The keys that `rag-pipeline ingest --json` promises, and a few more."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {**counts, "seconds": {name: round(value, 3) for name, value in self.seconds.items()}}
