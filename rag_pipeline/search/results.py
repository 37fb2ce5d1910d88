"""What a search gives: the modes there are, hits, and how long each stage took. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from uuid import UUID

Mode = Literal["hybrid", "dense", "sparse", "fulltext"]
"""`hybrid`: dense and sparse vectors fused, the best reranked by multi-vectors, each as far as it is built.
`dense`, `sparse`: that collection alone. `fulltext`: PostgreSQL alone."""
MODES: tuple[Mode, ...] = get_args(Mode)

MAX_LIMIT = 100


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, as it is in PostgreSQL."""

    document_id: UUID
    source_type: str
    source_id: str
    source_url: str | None
    title: str
    chunk_id: UUID
    position: int
    section_title: str | None
    content: str
    score: float
    """Orders the hits of one search; says nothing across searches."""
    scores: dict[str, float | None]
    """Each leg's own score, by `dense`, `sparse` and `multi`; None where the leg did not find the chunk."""

    def as_json(self) -> dict[str, Any]:
        """The hit as `rag-pipeline search --json` prints it."""
        return {
            **vars(self),
            "document_id": str(self.document_id),
            "chunk_id": str(self.chunk_id),
            "score": round(self.score, 6),
            "scores": {leg: None if score is None else round(score, 6) for leg, score in self.scores.items()},
        }


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first, and how long each stage took."""

    hits: list[Hit]
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of wall time by stage, in order."""

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return sum(self.stages.values())

    def as_json(self) -> dict[str, Any]:
        """The result as `rag-pipeline search --json` prints it."""
        return {"hits": [hit.as_json() for hit in self.hits], "seconds": round(self.seconds, 4)}
