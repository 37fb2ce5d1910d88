"""Tally: what an ingest did, and how long each stage took. Counted by the steps, printed by the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rag_pipeline.stopwatch import Stopwatch


@dataclass
class Tally(Stopwatch):
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

    def as_json(self) -> dict[str, Any]:
        """The keys that `rag-pipeline ingest --json` promises, and a few more."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {**counts, "seconds": {name: round(value, 3) for name, value in self.seconds.items()}}
