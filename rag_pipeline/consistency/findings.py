"""A finding: what a check reports. Which checks exist is in `checks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_pipeline.sources.naming import without_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rag_pipeline.months import Month

COMMAND = "rag-pipeline repair"
_SHOWN = 3
_NAMES_FOR_PROGRAMS = ("document_id", "source_type")


@dataclass(frozen=True)
class Finding:
    """One inconsistency in one asset."""

    check: str
    """The name of the check that found it, a key of `checks.CHECKS`."""
    where: str
    """The asset: `documents`, `document_chunks`, `dense_collection`, …"""
    month: Month | None
    """None: it concerns the whole index."""
    problem: str
    """What is inconsistent, as a label that reads well before a count: `chunks without a document`."""
    count: int
    """The exact number of affected things, however few are in the sample."""
    sample: list[dict[str, Any]]
    what_to_do: str
    caused_by: str | None = None
    """The check that reports the cause, if this one could not be carried out. A full check omits such findings."""

    @property
    def summary(self) -> str:
        """The problem with its count."""
        return f"{self.problem} ({self.count})"

    @property
    def description(self) -> str:
        """The problem, its count and the first few affected things, as a sentence for people."""
        first = "; ".join(row_text(row) for row in self.sample[:_SHOWN])
        more = f"; and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        return f"{self.summary[:1].upper()}{self.summary[1:]}: {first}{more}."

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `rag-pipeline check --json` prints it."""
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
        return f"{self.check} in {self.where}{when}: {self.summary}"


def repair_command(month: Month | None) -> str:
    """Return the command that repairs a month, or (None) the whole index, as `what_to_do` names it."""
    return f"`{COMMAND} --month {month}`" if month else f"`{COMMAND}`"


def row_text(row: Mapping[str, Any]) -> str:
    """Return a row of a sample on one line: a document by its name, with what is known about it."""
    fields = {name: value for name, value in row.items() if name not in _NAMES_FOR_PROGRAMS and value is not None}
    document = fields.pop("source_id", None)
    if document is None:
        return ", ".join(f"{name} {value}" for name, value in fields.items())
    fields.pop("chunk_id", None)
    details = ", ".join(
        without_name(str(value), document) if name == "reason" else f"{name} {value}"
        for name, value in fields.items()
    )
    return f"{document} ({details})" if details else str(document)
