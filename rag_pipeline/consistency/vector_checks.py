"""The checks of the vectors: missing and orphaned ones, found in one pass over a collection's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_pipeline.consistency.asset_names import collection_asset, kinds_among
from rag_pipeline.consistency.comparison import differences, differences_among, vectors_of_no_month
from rag_pipeline.consistency.findings import Finding, repair_command
from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.postgres import consistency_queries, expiring_months

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rag_pipeline.consistency.comparison import Differences
    from rag_pipeline.indexing.touched_chunks import TouchedChunks
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import VectorKind


def missing_and_orphaned_vectors(pipeline: Pipeline, month: Month, assets: Sequence[str]) -> list[Finding]:
    """Find chunks whose vectors are missing from a collection, and keys there that belong to no chunk.

    A collection that is not loaded cannot be read: both checks report that, and `index_issues` reports the cause.
    """
    return _of_collections(pipeline, month, assets, lambda kind: differences(pipeline, month, kind))


def missing_and_orphaned_among(
    pipeline: Pipeline, month: Month, assets: Sequence[str], touched: TouchedChunks
) -> list[Finding]:
    """As `missing_and_orphaned_vectors`, only among the chunks that a run touched."""
    return _of_collections(pipeline, month, assets, lambda kind: differences_among(pipeline, month, kind, touched))


def vectors_outside_months(pipeline: Pipeline, assets: Sequence[str]) -> list[Finding]:
    """Find vectors in partitions of no month, such as the default one: searches find them, no chunk has them."""
    found: list[Finding] = []
    for kind in kinds_among(assets, pipeline.vectors):
        if not _is_readable(pipeline, kind):
            continue  # The months' comparisons report that.
        orphaned = _Sample()
        for partition, keys in vectors_of_no_month(pipeline, kind):
            orphaned.add({"id": key, "why": f"in partition {partition}, of no month"} for key in sorted(keys))
        if orphaned.count:
            found.append(
                Finding(
                    "orphaned_vectors",
                    collection_asset(kind),
                    None,
                    f"vectors in {pipeline.collections.generations[kind].name} in partitions of no month",
                    orphaned.count,
                    orphaned.first,
                    f"{repair_command(None)} deletes them",
                )
            )
    return found


def _of_collections(
    pipeline: Pipeline,
    month: Month,
    assets: Sequence[str],
    compare: Callable[[VectorKind], Iterable[Differences]],
) -> list[Finding]:
    found: list[Finding] = []
    for kind in kinds_among(assets, pipeline.vectors):
        if _is_readable(pipeline, kind, month):
            found += _findings(pipeline, month, kind, compare(kind))
        else:
            found += _unreadable(month, kind)
    return found


def _is_readable(pipeline: Pipeline, kind: VectorKind, month: Month | None = None) -> bool:
    """Whether the vectors can be looked up; from a collection that does not exist, all of them are missing."""
    milvus, name = pipeline.stores.milvus, pipeline.collections.generations[kind].name
    if month is not None and key_ranges.has_partition(milvus, name, month):
        return key_ranges.is_loaded(milvus, name, month.milvus_partition)
    with milvus.client() as client:
        if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
            return True
    return key_ranges.is_loaded(milvus, name)


def _unreadable(month: Month, kind: VectorKind) -> list[Finding]:
    where = collection_asset(kind)
    return [
        Finding(
            check,
            where,
            month,
            "collections that cannot be read because they, or their partition, are not loaded",
            1,
            [{"collection": where}],
            f"{repair_command(None)} loads it; see index_issues",
            caused_by="index_issues",
        )
        for check in ("missing_vectors", "orphaned_vectors")
    ]


def _findings(pipeline: Pipeline, month: Month, kind: VectorKind, parts: Iterable[Differences]) -> list[Finding]:
    name = pipeline.collections.generations[kind].name
    missing, orphaned = _Sample(), _Sample()
    for part in parts:
        missing.add(part.missing)
        orphaned.add(part.orphaned.items())
    if orphaned.count and _is_expiring_or_gone(pipeline, month, name):
        return []
    with pipeline.stores.database.connection() as connection:
        chunks = consistency_queries.describe_chunks(connection, month, missing.first)
    where = collection_asset(kind)
    found: list[Finding] = []
    if missing.count:
        problem = f"chunks whose vectors are missing from {name}"
        what_to_do = (
            f"{repair_command(month)} restores them from embedding_cache, and embeds those that are not there"
        )
        found.append(Finding("missing_vectors", where, month, problem, missing.count, chunks, what_to_do))
    if orphaned.count:
        problem = f"vectors in {name} that belong to no chunk"
        sample = [{"id": key, "why": why} for key, why in orphaned.first]
        what_to_do = f"{repair_command(month)} deletes them"
        found.append(Finding("orphaned_vectors", where, month, problem, orphaned.count, sample, what_to_do))
    return found


def _is_expiring_or_gone(pipeline: Pipeline, month: Month, collection: str) -> bool:
    """Whether both stores are dropping the month, or have just dropped it."""
    with pipeline.stores.database.connection() as connection:
        if month in expiring_months.in_progress(connection):
            return True
    return not key_ranges.has_partition(pipeline.stores.milvus, collection, month)


class _Sample:
    """Counts everything, and keeps the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[Any] = []

    def add(self, things: Iterable[Any]) -> None:
        for thing in things:
            self.count += 1
            if len(self.first) < consistency_queries.SAMPLE:
                self.first.append(thing)
