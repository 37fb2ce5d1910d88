"""The check of the structure: tables, collections and their partitions, compared with what is specified."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.asset_names import TABLE_ASSETS, collection_asset, kinds_among
from rag_pipeline.consistency.findings import Finding, repair_command
from rag_pipeline.errors import PrivilegeError
from rag_pipeline.stores.milvus import collection_inspection as milvus_inspection
from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline.stores.postgres import consistency_queries, expiring_months, schema, schema_inspection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.postgres.schema_inspection import SchemaProblem

_NO_COLLECTION_YET = "collection missing"


def table_and_collection_issues(pipeline: Pipeline, assets: Sequence[str]) -> list[Finding]:
    """Find differences of the tables and collections themselves from what is specified."""
    found: list[Finding] = []
    if _includes_tables(assets):
        try:
            problems = schema_inspection.schema_problems(pipeline.stores.database)
        except PrivilegeError as error:
            found += _missing_privilege(error, assets)
        else:
            found += _table_findings(problems, None, assets)
    for kind in kinds_among(assets, pipeline.vectors):
        found += _collection_issues(pipeline, kind)
    return found


def partition_issues(pipeline: Pipeline, month: Month, assets: Sequence[str]) -> list[Finding]:
    """Find differences of a month's partitions from what is specified."""
    found: list[Finding] = []
    if _includes_tables(assets):
        with suppress(PrivilegeError):  # Reported once, for the index as a whole.
            problems = schema_inspection.partition_problems(pipeline.stores.database, month)
            found += _table_findings(problems, month, assets)
    for kind in kinds_among(assets, pipeline.vectors):
        found += _collection_partition_issues(pipeline, month, kind)
    return found


def _includes_tables(assets: Sequence[str]) -> bool:
    return any(table in assets for table in TABLE_ASSETS)


def _table_findings(
    problems: Sequence[SchemaProblem], month: Month | None, assets: Sequence[str]
) -> list[Finding]:
    found = []
    for where in TABLE_ASSETS:
        sample: list[dict[str, Any]] = [
            {"problem": problem.what, "table": problem.table, "name": problem.name, "found": problem.found}
            for problem in problems
            if problem.where == where
        ]
        if sample and where in assets:
            found.append(_issue(where, month, "differences from the specified schema", sample))
    return found


def _missing_privilege(error: PrivilegeError, assets: Sequence[str]) -> list[Finding]:
    """One finding for each table that cannot be compared."""
    return [
        Finding(
            "index_issues",
            where,
            None,
            "missing privileges to check the schema",
            1,
            [{"problem": "missing privilege", "table": where}],
            str(error),
        )
        for where in TABLE_ASSETS
        if where in assets
    ]


def _collection_issues(pipeline: Pipeline, kind: VectorKind) -> list[Finding]:
    collections = pipeline.collections
    name = collections.generations[kind].name
    with pipeline.stores.database.connection() as connection:
        expected = consistency_queries.expects_vectors(connection, None)
    problems = milvus_inspection.collection_problems(collections, kind)
    if not expected:  # Nothing was ever indexed, so the collection need not exist yet.
        problems = [problem for problem in problems if problem.what != _NO_COLLECTION_YET]
    sample = [{"problem": problem.what, "collection": name, "found": problem.found} for problem in problems]
    return [_collection_issue(kind, None, sample)] if sample else []


def _collection_partition_issues(pipeline: Pipeline, month: Month, kind: VectorKind) -> list[Finding]:
    name = pipeline.collections.generations[kind].name
    with pipeline.stores.database.connection() as connection:
        expected = consistency_queries.expects_vectors(connection, month)
    stored = key_ranges.has_partition(pipeline.collections.milvus, name, month)
    if expected and not stored:
        problem = "partition missing"
    elif stored and not expected and _is_stray(pipeline, name, month):
        problem = "partition of a month without a partition in PostgreSQL"
    elif stored and expected and _is_released(pipeline, name, month):
        problem = "partition not loaded"
    else:
        return []
    sample = [{"problem": problem, "collection": name, "found": month.milvus_partition}]
    return [_collection_issue(kind, month, sample)]


def _is_released(pipeline: Pipeline, collection: str, month: Month) -> bool:
    """Whether a partition alone is not loaded; that its collection is not is another problem."""
    milvus = pipeline.stores.milvus
    return not key_ranges.is_loaded(milvus, collection, month.milvus_partition) and key_ranges.is_loaded(
        milvus, collection
    )


def _is_stray(pipeline: Pipeline, collection: str, month: Month) -> bool:
    """Whether PostgreSQL does not know a partition's month, and is not expiring it right now."""
    database = pipeline.stores.database
    if month in schema.existing_months(database):
        return False
    with database.connection() as connection:
        if month in expiring_months.in_progress(connection):
            return False
    return key_ranges.has_partition(pipeline.stores.milvus, collection, month)


def _collection_issue(kind: VectorKind, month: Month | None, sample: list[dict[str, Any]]) -> Finding:
    return _issue(collection_asset(kind), month, "differences from the specified collection", sample)


def _issue(where: str, month: Month | None, problem: str, sample: list[dict[str, Any]]) -> Finding:
    what_to_do = f"{repair_command(month)} restores the specified structure"
    return Finding(
        "index_issues",
        where,
        month,
        problem,
        len(sample),
        sample[: consistency_queries.SAMPLE],
        what_to_do,
    )
