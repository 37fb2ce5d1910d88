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
class PartOfMonth:
    """A month some of whose collections were counted when the time was up."""

    month: Month
    kinds: list[str] = field(default_factory=list)
    """Those that were counted."""
    different: list[str] = field(default_factory=list)


@dataclass
class Sweep:
    """What one call of `sweep` saw."""

    counted: int = 0
    """Months."""
    busy: int = 0
    """Months that were left out."""
    suspects: dict[Month, str] = field(default_factory=dict)
    """The months to check, each with what was seen: the same text as long as nothing changes."""
    stopped_at: Month | None = None
    """The last month that was counted if the time was up; None: all were."""
    part: PartOfMonth | None = None
    """The next one, if it was counted in part."""


def sweep(
    pipeline: Pipeline,
    busy: Collection[Month],
    after: Month | None,
    deadline: float,
    unchecked: Mapping[Month, str] | None = None,
    part: PartOfMonth | None = None,
) -> Sweep:
    """Count the vectors of every month with documents, from the one `after` the last call's until the deadline.

    Suspect are months whose counts differ, months with a failing check, which may have been repaired since, and those
    that are `unchecked`, each with the reason, also without documents. Months that are `busy` are left out: their run
    ends with their checks. `deadline` is in `time.monotonic()`; at least one collection of a month is counted. A month
    of which a `part` was counted by the last call is gone on with.
    """
    unchecked = unchecked or {}
    result = Sweep()
    failing = _failing_months(pipeline)
    some = False
    for month in sorted({*schema.months_with_documents(pipeline.stores.database), *unchecked}):
        if after is not None and month <= after:
            continue
        if month in busy:
            result.busy += 1
            continue
        counted = part if part is not None and part.month == month else PartOfMonth(month)
        for kind in pipeline.vectors:
            if kind in counted.kinds:
                continue
            if some and time.monotonic() >= deadline:
                result.part = counted if counted.kinds else None
                result.stopped_at = result.stopped_at or after
                return result
            counted.different += [str(counts) for counts in verify(pipeline, month, [kind]) if not counts.equal]
            counted.kinds.append(kind)
            some = True
        seen = [
            *counted.different,
            *(["a check fails"] if not counted.different and month.partition_key in failing else []),
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
