"""What the steps of a month do, and the metadata by which Dagster shows it: by the assets, and for several months.

Each adds its counts to the `MonthRun`. The caller holds the month's lock.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from rag_pipeline.consistency.asset_names import collection_asset
from rag_pipeline.defs.check_history import Passed, if_enough
from rag_pipeline.defs.check_outcomes import vectors_verified
from rag_pipeline.defs.metadata import document_page, links, table, workers_table
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.verify import verify
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.stores.postgres import document_chunks as chunks_table
from rag_pipeline.stores.postgres import documents as documents_table

Metadata = Mapping[str, Any]
_NEWEST = 10


def documents_step(pipeline: Pipeline, month: Month, month_run: MonthRun) -> Metadata:
    """Read the month's new and changed items, delete what is gone."""
    result = ingest_documents(pipeline, month)
    month_run.stats.add(result.counts())
    month_run.unreachable += result.unreachable.values()
    month_run.warnings.merge(result.warnings)
    for line in result.warnings.lines():
        dg.get_dagster_logger().warning(f"{month}: {line}")
    with pipeline.stores.database.connection() as connection:
        newest = documents_table.newest(connection, month, _NEWEST)
    return {
        "stored": result.stored,
        "unchanged": result.unchanged,
        "deleted": result.deleted,
        "quarantined": len(result.quarantined),
        "quarantine_reasons": table(("document", "reason"), result.quarantined),
        "documents_with_warnings": result.warnings.count,
        "document_warnings": table(("document", "warnings"), [row[1:] for row in result.warnings.newest]),
        **workers_table("documents", result.workers),
        "unreachable_sources": list(result.unreachable.values()),
        # Their chunks are counted by the next step, which cuts them.
        "newest_documents": table(("title", "language", "created_at"), [row[:3] for row in newest]),
    }


def chunks_step(pipeline: Pipeline, month: Month, month_run: MonthRun) -> Metadata:
    """Cut the month's new and changed documents."""
    result = chunk_documents(pipeline, month)
    month_run.stats.add(result.counts())
    with pipeline.stores.database.connection() as connection:
        sizes = chunks_table.size_distribution(connection, month)
        newest = documents_table.newest(connection, month, _NEWEST)
    return {
        "documents": result.documents,
        "added": result.added,
        "superseded": result.superseded,
        "kept": result.kept,
        **workers_table("documents", result.workers),
        "chunk_sizes": table(("tokens", "chunks"), sizes),
        "newest_documents": table(("title", "language", "created_at", "chunks"), [row[:4] for row in newest]),
        "on_the_search_page": links((row[0], document_page(pipeline.settings, row[4])) for row in newest),
    }


def vectors_step(
    pipeline: Pipeline,
    month: Month,
    month_run: MonthRun,
    built: Sequence[VectorKind],
    chosen: Collection[VectorKind],
    passed: Passed,
) -> dict[str, Metadata]:
    """Embed the month's chunks, write and delete vectors, and compare the counts of both stores.

    Returns the metadata of the collections of the kinds that Dagster has `built`, by asset.
    """
    # The live generation can have other kinds than these definitions, until they are loaded again. All that it has are
    # built, unless somebody has chosen some.
    selected = [kind for kind in pipeline.vectors if kind in chosen or len(chosen) == len(built)]
    # Each step's counts at once: a later step can fail.
    result = index_vectors(pipeline, month, selected)
    month_run.stats.add(result.counts())
    month_run.embedding_tokens += result.embedding_tokens or 0
    month_run.stats.add(deletion_counts(drain_deletions(pipeline, touched=result.touched)))
    touched = if_enough(passed, result.touched, [vectors_verified(kind) for kind in selected if kind in built])
    month_run.verified = verify(pipeline, month, selected, touched)
    month_run.touched = result.touched
    # Absent where nobody reports them, so that a plot has no zeros that mean nothing.
    billed = {} if result.embedding_tokens is None else {"embedding_tokens": result.embedding_tokens}
    return {
        collection_asset(counts.kind): {
            **counts.as_dict(),
            "written_chunks": result.written,
            "embedded_chunks": result.embedded,
            "from_embedding_cache": result.reused,
            **billed,
            "embedding_cache": "unreachable" if pipeline.cache_unreachable else "ok",
            "moved_chunks": result.moved,
            "switched_documents": result.documents_switched,
            **workers_table("chunks", result.workers),
            "failed_chunks": table(("chunk", "reason"), result.failed),
        }
        for counts in month_run.verified
        if counts.kind in built
    }
