"""The checks of a month and how they are carried out: by the steps that are defined for them, and for several months."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import dagster as dg

from rag_pipeline.consistency.asset_names import TABLE_ASSETS
from rag_pipeline.consistency.checks import Check, check_index, check_month, checks_by_asset
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.defs.check_history import Passed, if_enough
from rag_pipeline.defs.check_outcomes import (
    BACKLOG,
    Outcome,
    backlog_outcome,
    counts_outcome,
    findings_outcome,
    vectors_verified,
)
from rag_pipeline.defs.month_partitions import months
from rag_pipeline.errors import BusyError
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind


@dataclass(frozen=True)
class CountCheck:
    """A check that compares counts; the others are those of the table of consistency checks."""

    spec: dg.AssetCheckSpec
    outcome: Callable[[Pipeline, Month, MonthRun], Outcome]


@dataclass(frozen=True)
class MonthChecks:
    """Checks of some assets."""

    counts: Sequence[CountCheck]
    by_asset: Mapping[str, Mapping[dg.AssetCheckKey, Check]]

    @property
    def keys(self) -> list[dg.AssetCheckKey]:
        """The checks, in the order in which they are carried out."""
        consistency = [key for checks in self.by_asset.values() for key in checks]
        return [*(check.spec.key for check in self.counts), *consistency]

    @property
    def specs(self) -> list[dg.AssetCheckSpec]:
        """What Dagster is to know of them."""
        return [
            *(check.spec for check in self.counts),
            *(
                dg.AssetCheckSpec(
                    key.name, asset=key.asset_key, partitions_def=months, description=check.description_on(asset)
                )
                for asset, checks in self.by_asset.items()
                for key, check in checks.items()
            ),
        ]

    def among(self, selected: Collection[dg.AssetCheckKey]) -> "MonthChecks":
        """Return those that are selected."""
        return MonthChecks(
            [check for check in self.counts if check.spec.key in selected],
            {
                asset: chosen
                for asset, checks in self.by_asset.items()
                if (chosen := {key: check for key, check in checks.items() if key in selected})
            },
        )


def checks_of_tables(built: Sequence[VectorKind]) -> MonthChecks:
    """Return the checks of what is in PostgreSQL. They can be carried out even if Milvus is down."""
    return MonthChecks([_BACKLOG], _consistency_checks(built, of_tables=True))


def checks_of_collections(built: Sequence[VectorKind]) -> MonthChecks:
    """Return the checks of the collections, for the kinds of vectors that are built."""
    return MonthChecks([_vectors_verified(kind) for kind in built], _consistency_checks(built, of_tables=False))


def _consistency_checks(
    built: Sequence[VectorKind], *, of_tables: bool
) -> dict[str, dict[dg.AssetCheckKey, Check]]:
    return {
        asset: {dg.AssetCheckKey(dg.AssetKey(asset), check.name): check for check in checks}
        for asset, checks in checks_by_asset(built).items()
        if (asset in TABLE_ASSETS) == of_tables
    }


def month_outcomes(
    pipeline: Pipeline,
    month: Month,
    month_run: MonthRun,
    checks: MonthChecks,
    of_index: Sequence[Finding],
    passed: Passed,
) -> Iterator[tuple[dg.AssetCheckKey, Outcome]]:
    """Carry out checks of a month, in the order of their keys. `of_index` is what is wrong with the index as a whole.

    The consistency checks of a collection share a pass over its keys.
    """
    for count_check in checks.counts:
        yield count_check.spec.key, count_check.outcome(pipeline, month, month_run)
    touched_of = {
        asset: if_enough(passed, month_run.touched, [key for key, check in of_asset.items() if check.of_change])
        for asset, of_asset in checks.by_asset.items()
    }
    found = [*of_index]
    # Mostly all are alike: what is asked about several assets at once is asked once.
    for touched in [None] if month_run.touched is None else [month_run.touched, None]:
        assets = tuple(asset for asset, its in touched_of.items() if its is touched)
        names = {check.name for asset in assets for check in checks.by_asset[asset].values()}
        if assets:
            found += check_month(pipeline, month, names=names, assets=assets, touched=touched)
    for asset, of_asset in checks.by_asset.items():
        for key, check in of_asset.items():
            findings = [f for f in found if (f.where, f.check) == (asset, check.name)]
            yield key, findings_outcome(check, findings, pipeline.settings, touched_of[asset])


def look_at_index(pipeline: Pipeline, checks: MonthChecks, *, costly: bool) -> list[Finding]:
    """Look for what these checks find wrong with the index as a whole. Without `costly`, not through all items."""
    return check_index(pipeline, names=_names(checks), assets=tuple(checks.by_asset), costly=costly)


def look_at_index_now_and_then(
    pipeline: Pipeline, month: Month, checks: MonthChecks, passed: Passed
) -> list[Finding]:
    """Look for what is wrong with the index as a whole, where one month is run after the other in one process.

    Where nothing was wrong a moment ago, and nothing in the last look at this month, which would open an alert or close
    it, it does not look again.
    """
    looked_at = _names(checks), tuple(checks.by_asset)
    sound_since, now = _sound_since.setdefault(pipeline, {}), time.monotonic()
    since = sound_since.get(looked_at)
    if since is not None and now - since < _SOUND_SECONDS:
        asked = (key for of_asset in checks.by_asset.values() for key, check in of_asset.items() if check.of_index)
        if all(passed(month, key) for key in asked):
            return []
    found = look_at_index(pipeline, checks, costly=False)
    sound_since.pop(looked_at, None)
    if not found:
        sound_since[looked_at] = now
    return found


_LOCK_WAIT_SECONDS = 60.0
_SOUND_SECONDS = 15.0
_sound_since: WeakKeyDictionary[Pipeline, dict[tuple[frozenset[str], tuple[str, ...]], float]] = (
    WeakKeyDictionary()
)
"""When these checks found nothing wrong with the index as a whole, in these assets."""


def _names(checks: MonthChecks) -> frozenset[str]:
    return frozenset(key.name for of_asset in checks.by_asset.values() for key in of_asset)


def _vectors_verified(kind: VectorKind) -> CountCheck:
    def outcome(pipeline: Pipeline, month: Month, month_run: MonthRun) -> Outcome:
        if kind not in pipeline.vectors:
            return {"passed": True, "description": "the live generation has no vectors of this kind"}
        counted = [counts for counts in month_run.verified if (counts.month, counts.kind) == (month, kind)]
        (counts,) = counted or verify(pipeline, month, [kind])
        if not counts.equal and not counted and month in pipeline.months_in_progress():
            # A run is writing: what is counted once it has ended is right.
            with suppress(BusyError), pipeline.month_lock(month, _LOCK_WAIT_SECONDS):
                (counts,) = verify(pipeline, month, [kind])
        return counts_outcome(counts)

    key = vectors_verified(kind)
    spec = dg.AssetCheckSpec(
        key.name,
        asset=key.asset_key,
        partitions_def=months,
        blocking=True,
        description="Fails, and the run with it, unless three counts of vectors are equal: those that PostgreSQL expects for "
        "the month, those stored in its partition in Milvus, and those that queries find. If the month passed before, a "
        "run searches only for what it wrote; the rest counts as found where it is stored.",
    )
    return CountCheck(spec, outcome)


_BACKLOG = CountCheck(
    dg.AssetCheckSpec(
        BACKLOG.name,
        asset=BACKLOG.asset_key,
        partitions_def=months,
        description="Fails if the vectors of more chunks of the month than RAG_DELETIONS_BACKLOG are still to be deleted from "
        "Milvus.",
    ),
    lambda pipeline, month, _: backlog_outcome(pipeline, month),
)
