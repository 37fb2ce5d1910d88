"""The sensor that counts all months often, and has those checked whose counts differ, or whose checks were canceled.

It starts no run if there are none.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from croniter import croniter

from rag_pipeline.consistency.sweep import PartOfMonth, Sweep, sweep
from rag_pipeline.defs.check_history import months_left_unchecked
from rag_pipeline.defs.jobs import CHECK_MONTH, months_in_runs
from rag_pipeline.defs.month_checks import checks_of_collections, checks_of_tables
from rag_pipeline.defs.month_partitions import show_months
from rag_pipeline.defs.sensors import NOT_DUE
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline

_SWEEP_SECONDS = 20


@dataclass(frozen=True)
class _Position:
    """The sensor's cursor: when the last sweep began, and the month after which it goes on if it is unfinished.

    `part` is what was counted of the month that follows.
    """

    begun: datetime | None = None
    after: Month | None = None
    part: PartOfMonth | None = None

    @classmethod
    def load(cls, cursor: str | None) -> "_Position":
        if not cursor:
            return cls()
        begun, after, *parts = json.loads(cursor)
        part = [PartOfMonth(Month.parse(month), kinds, different) for month, kinds, different in parts]
        return cls(datetime.fromisoformat(begun), Month.parse(after) if after else None, part[0] if part else None)

    def dump(self) -> str:
        parts = [[str(self.part.month), self.part.kinds, self.part.different]] if self.part else []
        return json.dumps([self.begun and self.begun.isoformat(), self.after and str(self.after), *parts])

    @property
    def is_unfinished(self) -> bool:
        return self.after is not None or self.part is not None

    def is_due(self, cron: str, now: datetime) -> bool:
        return self.begun is None or self.is_unfinished or croniter(cron, self.begun).get_next(datetime) <= now


def sweep_counts(cron: str) -> dg.SensorDefinition:
    """Return the sensor that sweeps at a cron's times."""

    @dg.sensor(
        name="sweep_counts",
        job_name=CHECK_MONTH,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Counts the vectors of every month that has documents ({cron}), and runs the checks of the months "
        "whose counts differ, that have a failing check, or whose last run was canceled before its checks.",
    )
    def counts(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
        now = datetime.now(UTC)
        last = _Position.load(context.cursor)
        if not last.is_due(cron, now):
            return dg.SensorResult(skip_reason=f"the sweep {NOT_DUE} ({cron})")
        busy = months_in_runs(context.instance)
        shown = show_months(context.instance, pipeline)
        unchecked = months_left_unchecked(context.instance, _checks(pipeline), shown)
        found = sweep(pipeline, busy, last.after, time.monotonic() + _SWEEP_SECONDS, unchecked, last.part)
        position = _Position(last.begun if last.is_unfinished else now, found.stopped_at, found.part)
        return dg.SensorResult(
            run_requests=[_request(month, seen, now) for month, seen in found.suspects.items()],
            cursor=position.dump(),
            skip_reason=None if found.suspects else _said(found),
        )

    return counts


def _said(found: Sweep) -> str:
    if found.part is not None:
        return f"months counted: {found.counted}; {found.part.month} goes on at the next tick"
    if found.busy and not found.counted:
        return "months counted: 0; all are running"
    return f"months counted: {found.counted}, all as expected"


def _checks(pipeline: Pipeline) -> list[dg.AssetCheckKey]:
    """Those of the definitions: no run evaluates others."""
    built = pipeline.settings.vectors
    return [*checks_of_tables(built).keys, *checks_of_collections(built).keys]


def _request(month: Month, seen: str, now: datetime) -> dg.RunRequest:
    """Request the checks of a month: at once if anything changed, otherwise once an hour."""
    digest = hashlib.sha256(seen.encode()).hexdigest()[:12]
    return dg.RunRequest(run_key=f"{month} {digest} {now:%Y-%m-%dT%H}", partition_key=month.partition_key)
