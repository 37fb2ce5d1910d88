"""What a check returns: for each kind of inconsistency a list of findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rag_pipeline.months import Month

CheckName = Literal[
    "orphaned_chunks",
    "missing_vectors",
    "orphaned_vectors",
    "status_mismatches",
    "index_issues",
    "quarantined_documents",
]
CHECK_NAMES: tuple[CheckName, ...] = (
    "orphaned_chunks",
    "missing_vectors",
    "orphaned_vectors",
    "status_mismatches",
    "index_issues",
    "quarantined_documents",
)
WARNINGS: frozenset[CheckName] = frozenset({"quarantined_documents"})
"""Kinds that a person has to know of, and that leave the index consistent."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in one place."""

    check: CheckName
    where: str
    """The asset: `documents`, `document_chunks`, `dense_collection`, …"""
    month: Month | None
    """None: of the whole index."""
    problem: str
    count: int
    """Of all that were found, however few are in the sample."""
    sample: list[dict[str, Any]]
    what_to_do: str

    def as_json(self) -> dict[str, Any]:
        """With the month as text."""
        return {
            "month": None if self.month is None else str(self.month),
            "where": self.where,
            "problem": self.problem,
            "count": self.count,
            "sample": self.sample,
            "what_to_do": self.what_to_do,
        }

    def __str__(self) -> str:
        when = f", {self.month}" if self.month else ""
        return f"{self.check} in {self.where}{when}: {self.count} {self.problem}"


@dataclass
class Consistency:
    """What `check_consistency` found: a list for each kind, empty where all is well."""

    orphaned_chunks: list[Finding] = field(default_factory=list)
    missing_vectors: list[Finding] = field(default_factory=list)
    orphaned_vectors: list[Finding] = field(default_factory=list)
    status_mismatches: list[Finding] = field(default_factory=list)
    index_issues: list[Finding] = field(default_factory=list)
    quarantined_documents: list[Finding] = field(default_factory=list)

    def add(self, findings: list[Finding]) -> None:
        """Put findings into the lists of their kinds."""
        for finding in findings:
            self.of(finding.check).append(finding)

    def of(self, check: CheckName) -> list[Finding]:
        """The list of a kind."""
        found: list[Finding] = getattr(self, check)
        return found

    @property
    def findings(self) -> list[Finding]:
        """All of them, by kind."""
        return [finding for check in CHECK_NAMES for finding in self.of(check)]

    @property
    def consistent(self) -> bool:
        """Whether nothing was found, but for warnings."""
        return not any(self.of(check) for check in CHECK_NAMES if check not in WARNINGS)

    def as_json(self) -> dict[str, Any]:
        """`consistent`, and a list for each kind."""
        lists: dict[str, Any] = {check: [finding.as_json() for finding in self.of(check)] for check in CHECK_NAMES}
        return {"consistent": self.consistent, **lists}
