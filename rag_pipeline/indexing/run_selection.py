"""Which months to run now: those with work, oldest first, a bounded number, and never the same work in a tight loop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import documents, source_items

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rag_pipeline.pipeline import Pipeline

_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)
_RETRIES = 1000


@dataclass(frozen=True)
class Asked:
    """That a month was asked for, with which work, and when it may be asked for with the same work again."""

    digest: str
    times: int
    again_at: datetime


def pending_work(pipeline: Pipeline) -> dict[Month, str]:
    """The months with pending work, and a digest of that work.

    What was set aside or failed becomes pending again here when its time has come: after a day, then after pauses
    that double. Each failure puts off the next try, so this never keeps a month busy.
    """
    with pipeline.stores.database.connection() as connection:
        source_items.retry_due(connection, _RETRIES)
        documents.retry_due(connection, _RETRIES)
        return {
            month: documents.work_digest(connection, month) for month in documents.months_with_work(connection)
        }


def due_months(
    work: Mapping[Month, str],
    busy: Collection[Month],
    asked: Mapping[Month, Asked],
    now: datetime,
    limit: int,
) -> tuple[list[Month], dict[Month, Asked]]:
    """The months to run now, and what to remember till the next call.

    A month that is being run is left alone. Work that is the same as when it was last asked for (its run failed) is
    asked for again after a pause that doubles each time, up to an hour; other work at once.
    """
    due: list[Month] = []
    remembered: dict[Month, Asked] = {}
    for month in sorted(work):
        before = asked.get(month)
        same = before is not None and before.digest == work[month]
        if before is not None and (month in busy or (same and now < before.again_at) or len(due) >= limit):
            remembered[month] = before
            continue
        if month in busy or len(due) >= limit:
            continue
        times = before.times + 1 if before is not None and same else 1
        pause = min(_FIRST_PAUSE * 2 ** min(times - 1, 10), _LONGEST_PAUSE)
        remembered[month] = Asked(work[month], times, now + pause)
        due.append(month)
    return due, remembered
