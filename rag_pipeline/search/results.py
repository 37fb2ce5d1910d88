"""The search modes, hits and stage times: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

Mode = Literal["hybrid", "dense", "sparse", "fulltext"]
"""`hybrid`: dense and sparse vectors fused, the best hits reranked by multi-vectors, from the kinds that are built.
`dense`, `sparse`: that collection alone. `fulltext`: PostgreSQL alone."""
MODES: tuple[Mode, ...] = get_args(Mode)

MAX_LIMIT = 100


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, as PostgreSQL holds it."""

    document_id: UUID
    document_created_at: datetime
    source_type: str
    source_id: str
    source_url: str | None
    title: str
    language: str | None
    chunk_id: UUID
    position: int
    section_title: str | None
    content: str
    score: float
    """Ranks the hits of one search; not comparable across searches."""
    scores: dict[str, float | None]
    """The scores by leg: `dense`, `sparse` and `multi`; None if the leg did not find the chunk."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    author: str | None = None
    section_path: tuple[str, ...] = ()
    """The headings above the chunk and its own, from the outermost on, without the document's title."""

    @property
    def source(self) -> str:
        """The name of the source, as in `sources.yaml`."""
        return self.source_id.partition(":")[0]

    def as_json(self) -> dict[str, Any]:
        """Return the hit as `rag-pipeline search --json` prints it."""
        return {
            **{name: value for name, value in vars(self).items() if name != "document_created_at"},
            "document_id": str(self.document_id),
            "chunk_id": str(self.chunk_id),
            "section_path": list(self.section_path),
            "created_at": self.document_created_at.astimezone(UTC).isoformat(),
            "source": self.source,
            "tags": list(self.tags),
            "score": round(self.score, 6),
            "scores": {leg: None if score is None else round(score, 6) for leg, score in self.scores.items()},
        }


def ranks(scores: Sequence[Mapping[str, float | None]]) -> list[dict[str, int]]:
    """Return, for the `scores` of each hit, the place that each leg gives it among these hits.

    That says more than a score, which means nothing by itself. A leg that did not find a hit is absent.
    """
    found: list[dict[str, int]] = [{} for _ in scores]
    for leg in ("dense", "sparse", "multi"):
        scored = [(score, number) for number, hit in enumerate(scores) if (score := hit[leg]) is not None]
        for place, (_, number) in enumerate(sorted(scored, key=lambda one: (-one[0], one[1])), 1):
            found[number][leg] = place
    return found


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first, and the time that each stage took."""

    hits: list[Hit]
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of wall time by stage, in order."""

    @property
    def seconds(self) -> float:
        """Total seconds."""
        return sum(self.stages.values())

    def as_json(self) -> dict[str, Any]:
        """Return the result as `rag-pipeline search --json` prints it."""
        return {"hits": [hit.as_json() for hit in self.hits], "seconds": round(self.seconds, 4)}
