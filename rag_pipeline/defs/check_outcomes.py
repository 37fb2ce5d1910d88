"""What a check of a month found, as Dagster is told: outcomes, and evaluations that belong to no check's own step."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from rag_pipeline.consistency.asset_names import built_assets, collection_asset
from rag_pipeline.consistency.checks import Check, checks_by_asset
from rag_pipeline.consistency.findings import Finding, repair_command
from rag_pipeline.defs.metadata import ROWS, document_page, links, table
from rag_pipeline.indexing.touched_chunks import TouchedChunks
from rag_pipeline.indexing.verify import VectorCounts, verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import Settings, VectorKind
from rag_pipeline.stores.postgres import vector_deletions

Outcome = dict[str, Any]
"""What a check found: the fields that Dagster's results and evaluations of checks have in common."""

BACKLOG = dg.AssetCheckKey(dg.AssetKey("document_chunks"), "vector_deletions_backlog")


Targets = Mapping[dg.AssetKey, AssetCheckEvaluationTargetMaterializationData]
"""The materializations of a month's assets that evaluations are about."""


def last_materializations(instance: dg.DagsterInstance, month: Month, settings: Settings) -> Targets:
    """Return the last materialization of each of a month's assets that has one."""
    keys = [dg.AssetKey(name) for name in built_assets(settings.vectors)]
    of_month = [month.partition_key]
    found = {
        key: instance.fetch_materializations(
            dg.AssetRecordsFilter(key, asset_partitions=of_month), limit=1
        ).records
        for key in keys
    }
    return {key: target(records[0]) for key, records in found.items() if records}


def target(record: dg.EventLogRecord) -> AssetCheckEvaluationTargetMaterializationData:
    """Return what an evaluation names a materialization by."""
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )


def consistency_evaluations(
    found: Sequence[Finding], month: Month, settings: Settings, targets: Targets
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate every consistency check of a month from the findings of a full check, such as a repair's last."""
    for asset, checks in checks_by_asset(settings.vectors).items():
        for check in checks:
            findings = [f for f in found if (f.where, f.check) == (asset, check.name) and f.month in (month, None)]
            key = dg.AssetCheckKey(dg.AssetKey(asset), check.name)
            outcome = findings_outcome(check, findings, settings)
            yield evaluation(month, key, outcome, targets.get(key.asset_key))


def count_evaluations(pipeline: Pipeline, month: Month, targets: Targets) -> Iterator[dg.AssetCheckEvaluation]:
    """Count a month's vectors and pending deletions, and evaluate the checks that compare them."""
    # Those of the definitions: the live generation can have other kinds until the code location is loaded again.
    built = [kind for kind in pipeline.vectors if kind in pipeline.settings.vectors]
    for counts in verify(pipeline, month, built):
        key = vectors_verified(counts.kind)
        yield evaluation(month, key, counts_outcome(counts), targets.get(key.asset_key))
    yield evaluation(month, BACKLOG, backlog_outcome(pipeline, month), targets.get(BACKLOG.asset_key))


def evaluation(
    month: Month,
    key: dg.AssetCheckKey,
    outcome: Outcome,
    target: AssetCheckEvaluationTargetMaterializationData | None = None,
) -> dg.AssetCheckEvaluation:
    """Return the evaluation of a month's check outside of that check's own step: it never blocks anything.

    `target` is the materialization that it is about, without which Dagster takes it for one of an earlier state.
    """
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        partition=month.partition_key,
        blocking=False,
        target_materialization_data=target,
        **outcome,
    )


def vectors_verified(kind: VectorKind) -> dg.AssetCheckKey:
    """Return the key of the check that compares the counts of a kind's collection."""
    return dg.AssetCheckKey(dg.AssetKey(collection_asset(kind)), "vectors_verified")


def findings_outcome(
    check: Check, findings: Sequence[Finding], settings: Settings, touched: TouchedChunks | None = None
) -> Outcome:
    """Return the outcome of a consistency check, from what it found in an asset."""
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


def counts_outcome(counts: VectorCounts) -> Outcome:
    """Compare the counts of a kind's collection."""
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


def backlog_outcome(pipeline: Pipeline, month: Month) -> Outcome:
    """Compare a month's pending deletions in Milvus with the limit."""
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
