"""Which months to run now: those with pending work, oldest first, and never the same work in a tight loop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rag_pipeline.indexing.index_vectors import reopen_incomplete
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import documents, source_items

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rag_pipeline.pipeline import Pipeline

_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)
_RETRIES = 1000
_REOPEN_SECONDS = 20


@dataclass(frozen=True)
class RequestedRun:
    """A requested run of a month: a digest of its work, and when the same work can be requested again."""

    digest: str
    times: int
    again_at: datetime


def pending_work(pipeline: Pipeline) -> dict[Month, str]:
    """Return the months with pending work, each with a digest of that work and of `sources.yaml`.

    What could not be read because of a mistake in the file can be read as soon as that is corrected.
    Quarantined items and chunks that are due for a retry become pending here: after a day, then after pauses that
    double. Each failure postpones the next retry, so this never keeps a month busy.
    """
    reopen_incomplete(pipeline, time.monotonic() + _REOPEN_SECONDS)
    with pipeline.stores.database.connection() as connection:
        source_items.retry_due(connection, _RETRIES)
        documents.retry_due(connection, _RETRIES)
        edition = pipeline.sources_file.digest
        return {
            month: f"{documents.work_digest(connection, month)} {edition}".rstrip()
            for month in documents.months_with_work(connection)
        }


def times_requested(before: RequestedRun | None, digest: str) -> int:
    """Return how often a month's work has been requested as it is now."""
    return before.times if before is not None and before.digest == digest else 0


def due_months(
    work: Mapping[Month, str],
    busy: Collection[Month],
    requested: Mapping[Month, RequestedRun],
    now: datetime,
    limit: int,
) -> tuple[list[Month], dict[Month, RequestedRun]]:
    """Return the months to run now, and what to remember until the next call.

    A month that is running is left alone. Work that is the same as when it was last requested (its run failed) is
    requested again after a pause that doubles each time, up to an hour; other work at once.
    """
    due: list[Month] = []
    remembered: dict[Month, RequestedRun] = {}
    for month in sorted(work):
        before = requested.get(month)
        times = times_requested(before, work[month])
        if before is not None and (month in busy or (times and now < before.again_at) or len(due) >= limit):
            remembered[month] = before
            continue
        if month in busy or len(due) >= limit:
            continue
        pause = min(_FIRST_PAUSE * 2 ** min(times, 10), _LONGEST_PAUSE)
        remembered[month] = RequestedRun(work[month], times + 1, now + pause)
        due.append(month)
    return due, remembered
