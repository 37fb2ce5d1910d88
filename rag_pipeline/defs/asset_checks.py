"""The asset checks: each collection's vectors, the backlog of deletions, and the table of consistency checks.

All are partitioned by month: an unpartitioned one leaves a row that stays "planned" in every run. The button
"Execute all" in the UI starts them without a month; they then check every month that has documents, and report them in
one evaluation. It raises no alert: nothing would close it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from rag_pipeline.consistency.asset_names import TABLE_ASSETS, collection_asset
from rag_pipeline.consistency.checks import Check, check_index, check_month, checks_by_asset
from rag_pipeline.consistency.findings import Finding, repair_command
from rag_pipeline.defs.check_history import if_enough, passed_before
from rag_pipeline.defs.metadata import ROWS, document_page, links, table
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.defs.run_owners import PROCESS_TAG
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.indexing.verify import VectorCounts, verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings, VectorKind
from rag_pipeline.stores.postgres import schema, vector_deletions

Outcome = dict[str, Any]
"""What a check found: the fields that Dagster's results and evaluations of checks have in common."""


@dataclass(frozen=True)
class _CountCheck:
    """A check that compares counts; the others are those of the table of consistency checks."""

    spec: dg.AssetCheckSpec
    outcome: Callable[[Pipeline, Month, MonthRun], Outcome]


def index_checks(built: Sequence[VectorKind]) -> list[dg.AssetChecksDefinition]:
    """Return the checks of all assets, for the kinds of vectors that are built.

    Two steps carry them out, because a step costs as much as a check: those of the tables run even if Milvus is down.
    """
    by_asset = checks_by_asset(built)
    tables = {asset: checks for asset, checks in by_asset.items() if asset in TABLE_ASSETS}
    collections = {asset: checks for asset, checks in by_asset.items() if asset not in TABLE_ASSETS}
    return [
        _step("table_checks", tables, [_BACKLOG]),
        _step("collection_checks", collections, [_vectors_verified(kind) for kind in built]),
    ]


def consistency_evaluations(
    found: Sequence[Finding], month: Month, settings: Settings
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate every consistency check of a month from the findings of a full check, such as a repair's last."""
    for asset, checks in checks_by_asset(settings.vectors).items():
        for check in checks:
            findings = [f for f in found if (f.where, f.check) == (asset, check.name) and f.month in (month, None)]
            yield _evaluation(month, asset, check.name, _findings_outcome(check, findings, settings))


def count_evaluations(pipeline: Pipeline, month: Month) -> Iterator[dg.AssetCheckEvaluation]:
    """Count a month's vectors and pending deletions, and evaluate the checks that compare them."""
    # Those of the definitions: the live generation can have other kinds until the code location is loaded again.
    built = [kind for kind in pipeline.vectors if kind in pipeline.settings.vectors]
    for counts in verify(pipeline, month, built):
        yield _evaluation(
            month, collection_asset(counts.kind), vectors_verified(counts.kind).name, _counts_outcome(counts)
        )
    yield _evaluation(month, "document_chunks", "vector_deletions_backlog", _backlog_outcome(pipeline, month))


def _evaluation(month: Month, asset: str, check: str, outcome: Outcome) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=check,
        partition=month.partition_key,
        blocking=False,
        **outcome,
    )


def _step(
    name: str, by_asset: Mapping[str, Sequence[Check]], count_checks: Sequence[_CountCheck]
) -> dg.AssetChecksDefinition:
    """The checks of some assets as one step. The consistency checks share a pass over the keys of a collection."""

    @dg.multi_asset_check(
        name=name,
        specs=[
            *(count_check.spec for count_check in count_checks),
            *(
                dg.AssetCheckSpec(check.name, asset=asset, partitions_def=months, description=check.description)
                for asset, checks in by_asset.items()
                for check in checks
            ),
        ],
        can_subset=True,
        # Last in a month's run: before its end, what a killed run left looks stuck, and any large deletion looks
        # like a backlog.
        op_tags={"dagster/priority": "-1"},
    )
    def step(
        context: dg.AssetCheckExecutionContext,
        pipeline: dg.ResourceParam[Pipeline],
        month_run: dg.ResourceParam[MonthRun],
    ) -> Iterator[dg.AssetCheckResult]:
        selected = context.selected_asset_check_keys
        of = _months_to_check(context, pipeline)
        for count_check in count_checks:
            key = count_check.spec.key
            if key in selected:
                outcomes = {month: count_check.outcome(pipeline, month, month_run) for month in of}
                yield _result(context, outcomes, check_name=key.name, asset_key=key.asset_key)
        chosen = {
            asset: {
                key: check
                for check in checks
                if (key := dg.AssetCheckKey(dg.AssetKey(asset), check.name)) in selected
            }
            for asset, checks in by_asset.items()
        }
        of_index = _of_index(context, pipeline, chosen)
        for asset, checks in chosen.items():
            if checks:
                of_change = [key for key, check in checks.items() if check.of_change]
                touched = if_enough(context, month_run.touched, of_change)
                yield from _consistency(context, pipeline, of, asset, list(checks.values()), of_index, touched)

    return step


def _of_index(
    context: dg.AssetCheckExecutionContext,
    pipeline: Pipeline,
    chosen: Mapping[str, Mapping[dg.AssetCheckKey, Check]],
) -> list[Finding]:
    """Look for what is wrong with the index as a whole.

    `rag-pipeline ingest` runs one month after the other. Where nothing was wrong a moment ago, and nothing in the last
    look at this month, which would open an alert or close it, it does not look again.
    """
    names = frozenset(key.name for checks in chosen.values() for key in checks)
    assets = tuple(asset for asset, checks in chosen.items() if checks)
    costly = not context.has_partition_key
    if PROCESS_TAG not in context.run.tags:
        return check_index(pipeline, names=names, assets=assets, costly=costly)
    sound_since, now = _sound_since.setdefault(pipeline, {}), time.monotonic()
    since = sound_since.get((names, assets))
    if since is not None and now - since < _SOUND_SECONDS:
        asked = (key for checks in chosen.values() for key, check in checks.items() if check.of_index)
        if all(passed_before(context, month_of(context), key) for key in asked):
            return []
    found = check_index(pipeline, names=names, assets=assets, costly=costly)
    sound_since.pop((names, assets), None)
    if not found:
        sound_since[names, assets] = now
    return found


_SOUND_SECONDS = 15.0
_sound_since: WeakKeyDictionary[Pipeline, dict[tuple[frozenset[str], tuple[str, ...]], float]] = (
    WeakKeyDictionary()
)
"""When these checks found nothing wrong with the index as a whole, in these assets."""


def _consistency(
    context: dg.AssetCheckExecutionContext,
    pipeline: Pipeline,
    of: Sequence[Month],
    asset: str,
    checks: Sequence[Check],
    of_index: Sequence[Finding],
    touched: TouchedChunks | None,
) -> Iterator[dg.AssetCheckResult]:
    names = {check.name for check in checks}
    by_month = {
        month: [*of_index, *check_month(pipeline, month, names=names, assets=(asset,), touched=touched)]
        for month in of
    }
    for check in checks:
        outcomes = {
            month: _findings_outcome(
                check,
                [f for f in found if (f.where, f.check) == (asset, check.name)],
                pipeline.settings,
                touched,
            )
            for month, found in by_month.items()
        }
        yield _result(context, outcomes, check_name=check.name, asset_key=asset)


def _findings_outcome(
    check: Check, findings: Sequence[Finding], settings: Settings, touched: TouchedChunks | None = None
) -> Outcome:
    rows = [
        (finding.problem, ", ".join(f"{name} {value}" for name, value in one.items()))
        for finding in findings
        for one in finding.sample
    ]
    documents = _links(findings, settings)
    of_change = touched if check.of_change else None
    return {
        "passed": not findings,
        "severity": dg.AssetCheckSeverity.WARN if check.severity == "warning" else dg.AssetCheckSeverity.ERROR,
        "description": " ".join(finding.description for finding in findings)
        or "no problems found" + (f" in what this run changed ({of_change})" if of_change else ""),
        "metadata": {
            "count": sum(finding.count for finding in findings),
            "sample": table(("problem", "details"), rows),
            **({"on_the_search_page": links(documents)} if documents else {}),
            "what_to_do": "; ".join(dict.fromkeys(finding.what_to_do for finding in findings)) or "nothing",
            **({"compared": str(of_change) if of_change else "the whole month"} if check.of_change else {}),
        },
    }


def _links(findings: Sequence[Finding], settings: Settings) -> list[tuple[str, str]]:
    """Return a link for each document and chunk of the samples, as (text, URL)."""
    found: dict[str, str] = {}
    for row in (row for finding in findings for row in finding.sample):
        if (document := row.get("document_id")) is not None:
            position = row.get("position")
            name = row.get("source_id") or f"chunk {position} of document {document}"
            found[document_page(settings, document, position)] = name
    return [(name, url) for url, name in found.items()][:ROWS]


def vectors_verified(kind: VectorKind) -> dg.AssetCheckKey:
    """Return the key of the check that compares the counts of a kind's collection."""
    return dg.AssetCheckKey(dg.AssetKey(collection_asset(kind)), "vectors_verified")


def _vectors_verified(kind: VectorKind) -> _CountCheck:
    def outcome(pipeline: Pipeline, month: Month, month_run: MonthRun) -> Outcome:
        if kind not in pipeline.vectors:
            return {"passed": True, "description": "the live generation has no vectors of this kind"}
        counted = [counts for counts in month_run.verified if (counts.month, counts.kind) == (month, kind)]
        (counts,) = counted or verify(pipeline, month, [kind])
        return _counts_outcome(counts)

    key = vectors_verified(kind)
    spec = dg.AssetCheckSpec(
        key.name,
        asset=key.asset_key,
        partitions_def=months,
        blocking=True,
        description="Expected = stored = searchable: what PostgreSQL expects for the month, what its partition in "
        "Milvus holds, and what queries find. A difference fails the run. A run searches for what it wrote, if the "
        "month passed before; what it did not touch counts as searchable where it is stored.",
    )
    return _CountCheck(spec, outcome)


def _counts_outcome(counts: VectorCounts) -> Outcome:
    return {
        "passed": counts.equal,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": f"Vectors expected in {collection_asset(counts.kind)}: {counts.expected}, stored: "
        f"{counts.stored}, searchable: {counts.searchable}"
        + ("" if counts.looked_up is None else f" (searched for: the {counts.looked_up} that this run wrote)")
        + (f", still to be deleted: {counts.pending_deletions}." if counts.pending_deletions else "."),
        "metadata": {
            **counts.as_dict(),
            "what_to_do": "nothing" if counts.equal else f"{repair_command(counts.month)} restores what differs",
        },
    }


def _backlog_outcome(pipeline: Pipeline, month: Month, _: MonthRun | None = None) -> Outcome:
    limit = pipeline.settings.deletions_backlog
    with pipeline.stores.database.connection() as connection:
        pending, since = vector_deletions.pending(connection, month)
    passed = pending <= limit
    description = f"Pending deletions in Milvus: {pending}"
    return {
        "passed": passed,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": f"{description}."
        if passed
        else f"{description}, more than RAG_DELETIONS_BACKLOG ({limit}).",
        "metadata": {
            "pending": pending,
            "limit": limit,
            "oldest_seconds": (datetime.now(UTC) - since).total_seconds() if since else 0.0,
            "what_to_do": "nothing"
            if passed
            else "find out from the ticks of the sensor drain_vector_deletions why they are not drained",
        },
    }


_BACKLOG = _CountCheck(
    dg.AssetCheckSpec(
        "vector_deletions_backlog",
        asset="document_chunks",
        partitions_def=months,
        description="Chunks of the month whose vectors are still to be deleted from Milvus. Fails if they exceed "
        "RAG_DELETIONS_BACKLOG.",
    ),
    _backlog_outcome,
)


def _months_to_check(context: dg.AssetCheckExecutionContext, pipeline: Pipeline) -> list[Month]:
    """Return the month of the run; without one, all months that have documents."""
    if context.has_partition_key:
        return [month_of(context)]
    return schema.months_with_documents(pipeline.stores.database)


def _result(
    context: dg.AssetCheckExecutionContext, outcomes: Mapping[Month, Outcome], **check: Any
) -> dg.AssetCheckResult:
    """Return the result of the run's month; without one, a summary with a table of all months, failing ones first."""
    if context.has_partition_key:
        (outcome,) = outcomes.values()
        return _ResultOfMonth(**check, **outcome)
    failing = [month for month, outcome in outcomes.items() if not outcome["passed"]]
    rows = [(month, outcomes[month]["description"]) for month in sorted(outcomes, key=lambda m: m not in failing)]
    return _ResultOfAllMonths(
        **check,
        passed=not failing,
        severity=outcomes[failing[0]]["severity"] if failing else dg.AssetCheckSeverity.ERROR,
        description=f"months checked: {len(outcomes)}, failing: {', '.join(map(str, failing)) or 'none'}",
        metadata={"months": table(("month", "result"), rows, limit=len(rows))},
    )


class _ResultOfMonth(dg.AssetCheckResult):
    """A result that looks up the month's materialization, which it is about, once for all checks of a step."""

    def _get_partitioned_target_materialization_data(
        self, step_context: Any, asset_key: Any, partition_key: str
    ) -> Any:
        step = step_context.run_id, step_context.step.key
        if _targets.step != step:
            _targets.step, _targets.by_asset = step, {}
        if asset_key not in _targets.by_asset:
            _targets.by_asset[asset_key] = super()._get_partitioned_target_materialization_data(
                step_context, asset_key, partition_key
            )
        return _targets.by_asset[asset_key]


class _Targets(threading.local):
    """What the checks of the step that this thread carries out are about."""

    step: tuple[str, str] | None = None
    by_asset: dict[dg.AssetKey, Any]


_targets = _Targets()


class _ResultOfAllMonths(dg.AssetCheckResult):
    """A result without a month. Dagster would look up the month that was materialized, and fail the step."""

    def _get_target_materialization_data(self, step_context: object, check_key: object) -> None:
        return None
