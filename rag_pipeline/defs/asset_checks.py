"""The asset checks: each collection's vectors, the backlog of deletions, and the table of consistency checks.

All are partitioned by month: an unpartitioned one leaves a row that stays "planned" in every run. The button
"Execute all" in the UI starts them without a month; they then check every month that has documents, and report them in
one evaluation. It raises no alert: nothing would close it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from rag_pipeline.defs.check_history import Passed, passed_before
from rag_pipeline.defs.check_outcomes import Outcome
from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.month_checks import (
    MonthChecks,
    checks_of_collections,
    checks_of_tables,
    look_at_index,
    look_at_index_now_and_then,
    month_outcomes,
)
from rag_pipeline.defs.month_partitions import month_of
from rag_pipeline.defs.run_owners import PROCESS_TAG
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.stores.postgres import schema


def index_checks(built: Sequence[VectorKind]) -> list[dg.AssetChecksDefinition]:
    """Return the checks of all assets, for the kinds of vectors that are built.

    Two steps carry them out, because a step costs as much as a check: those of the tables run even if Milvus is down.
    """
    return [
        _step("table_checks", checks_of_tables(built)),
        _step("collection_checks", checks_of_collections(built)),
    ]


def _step(name: str, checks: MonthChecks) -> dg.AssetChecksDefinition:
    """The checks of some assets as one step."""

    @dg.multi_asset_check(
        name=name,
        specs=checks.specs,
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
        chosen = checks.among(context.selected_asset_check_keys)
        passed = passed_before(context.instance, context.run.run_id)
        if not context.has_partition_key:
            yield from _of_all_months(pipeline, month_run, chosen, passed)
            return
        month = month_of(context)
        if PROCESS_TAG in context.run.tags:
            of_index = look_at_index_now_and_then(pipeline, month, chosen, passed)
        else:
            of_index = look_at_index(pipeline, chosen, costly=False)
        for key, outcome in month_outcomes(pipeline, month, month_run, chosen, of_index, passed):
            yield _ResultOfMonth(check_name=key.name, asset_key=key.asset_key, **outcome)

    return step


def _of_all_months(
    pipeline: Pipeline, month_run: MonthRun, checks: MonthChecks, passed: Passed
) -> Iterator[dg.AssetCheckResult]:
    """Check all months that have documents: a summary of each check, with a table of all months, failing ones first."""
    of_index = look_at_index(pipeline, checks, costly=True)
    of_months = {
        month: dict(month_outcomes(pipeline, month, month_run, checks, of_index, passed))
        for month in schema.months_with_documents(pipeline.stores.database)
    }
    for key in checks.keys:
        outcomes = {month: outcomes[key] for month, outcomes in of_months.items()}
        yield _ResultOfAllMonths(check_name=key.name, asset_key=key.asset_key, **_summary(outcomes))


def _summary(outcomes: Mapping[Month, Outcome]) -> Outcome:
    failing = [month for month, outcome in outcomes.items() if not outcome["passed"]]
    rows = [(month, outcomes[month]["description"]) for month in sorted(outcomes, key=lambda m: m not in failing)]
    return {
        "passed": not failing,
        "severity": outcomes[failing[0]]["severity"] if failing else dg.AssetCheckSeverity.ERROR,
        "description": f"months checked: {len(outcomes)}, failing: {', '.join(map(str, failing)) or 'none'}",
        "metadata": {"months": table(("month", "result"), rows, limit=len(rows))},
    }


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
