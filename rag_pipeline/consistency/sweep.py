"""The sweep: months whose counts differ, found by counting alone, so that damage shows before the nightly checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.indexing.verify import verify
from rag_pipeline.stores.postgres import alert_outbox, schema

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline

_NEEDS_A_PERSON = "quarantined_documents"
"""Fails until somebody changes the documents; checking their month again would show nothing new."""


@dataclass
class Sweep:
    """What one call of `sweep` saw."""

    counted: int = 0
    """Months."""
    suspects: dict[Month, str] = field(default_factory=dict)
    """The months to check, each with what was seen: the same text as long as nothing changes."""
    stopped_at: Month | None = None
    """The last month that was counted if the time was up; None: all were."""


def sweep(
    pipeline: Pipeline,
    busy: Collection[Month],
    after: Month | None,
    deadline: float,
    unchecked: Mapping[Month, str] | None = None,
) -> Sweep:
    """Count the vectors of every month with documents, from the one `after` the last call's until the deadline.

    Suspect are months whose counts differ, months with a failing check, which may have been repaired since, and those
    that are `unchecked`, each with the reason, also without documents. Months that are `busy` are left out: their run
    ends with their checks. `deadline` is in `time.monotonic()`; at least one month is counted.
    """
    unchecked = unchecked or {}
    result = Sweep()
    failing = _failing_months(pipeline)
    for month in sorted({*schema.months_with_documents(pipeline.stores.database), *unchecked}):
        if month in busy or (after is not None and month <= after):
            continue
        if result.counted and time.monotonic() >= deadline:
            return result
        different = [str(counts) for counts in verify(pipeline, month, pipeline.vectors) if not counts.equal]
        seen = [
            *different,
            *(["a check fails"] if not different and month.partition_key in failing else []),
            *([unchecked[month]] if month in unchecked else []),
        ]
        if seen:
            result.suspects[month] = "; ".join(seen)
        result.counted += 1
        result.stopped_at = month
    result.stopped_at = None
    return result


def _failing_months(pipeline: Pipeline) -> set[str]:
    with pipeline.stores.database.connection() as connection:
        failing = alert_outbox.failing(connection)
    return {
        subject.partition
        for subject, _ in failing
        if subject.kind == "check" and not subject.name.startswith(f"{_NEEDS_A_PERSON} ")
    }
