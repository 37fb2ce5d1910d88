"""The counts of an ingest: each step returns its own, whoever runs the steps adds them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

Counts = Mapping[str, int]
"""Some of the fields of `IngestStats`, by name: what one step did."""


@dataclass
class IngestStats:
    """Counts of one ingest, under the names of `rag-pipeline ingest --json`."""

    scanned: int = 0
    """Items that the scans listed."""
    new: int = 0
    changed: int = 0
    deleted: int = 0
    """Documents whose items are gone."""
    failed: int = 0
    """Documents that were quarantined because they cannot be read."""
    documents: int = 0
    """Documents stored, new or changed."""
    chunks: int = 0
    """Chunks added."""
    superseded: int = 0
    """Chunks that the next version of their document drops."""
    embedded: int = 0
    """Chunks that the embedder was asked for."""
    reused: int = 0
    """Chunks whose vectors came from `embedding_cache`."""
    moved: int = 0
    """Chunks that only moved: their rows in Milvus were rewritten with the stored vectors."""
    failed_chunks: int = 0
    """Chunks that cannot be embedded or written."""
    vectors_deleted: int = 0
    """Chunks whose vectors were deleted from Milvus."""

    def add(self, counts: Counts) -> None:
        """Add what a step did."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
