"""The assets: sources → documents → document_chunks → the three vector collections, partitioned by month.

No IO manager: the stores hold the data. An asset calls the library, adds its counts to the
run's `month_run`, and returns its metadata.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg

from rag_pipeline.consistency.asset_names import collection_asset
from rag_pipeline.defs.asset_checks import vectors_verified
from rag_pipeline.defs.check_history import if_enough
from rag_pipeline.defs.metadata import document_page, links, table, workers_table
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import deletion_counts, drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.scan import pauses
from rag_pipeline.indexing.verify import verify
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.naming import identifier, sensor_name
from rag_pipeline.stores.postgres import document_chunks as chunks_table
from rag_pipeline.stores.postgres import documents as documents_table

OWNERS = ["team:retrieval"]
GROUP = "index"
_NEWEST = 10
_LEAST_DELAY = timedelta(minutes=10)

_COLLECTIONS: dict[VectorKind, str] = {
    "dense": "Dense vectors for semantic search (HNSW, inner product), one per chunk.",
    "sparse": "Sparse vectors for keyword search (inverted index, inner product), one per chunk.",
    "multi": "Multi-vectors for fine-grained search, several per chunk: read by key to rerank the candidates.",
}


def source_assets(sources: Sequence[SourceConfig]) -> list[dg.AssetSpec]:
    """Return one external asset per source, so that the graph shows where documents come from."""
    return [
        dg.AssetSpec(
            source_key(source.name),
            group_name="sources",
            owners=OWNERS,
            kinds={source.type},
            description=f"Documents in {source.connection_config()['path']}, scanned by the sensor "
            f"`{sensor_name(source.name)}` ({source.schedule}).",
            metadata={"schedule": source.schedule, "include": list(source.include)},
            freshness_policy=_freshness_policy(source),
        )
        for source in sources
    ]


def _freshness_policy(source: SourceConfig) -> dg.FreshnessPolicy:
    """Return the policy that fails when a scheduled scan has been missing for a while."""
    pause = max(pauses(source))
    return dg.FreshnessPolicy.time_window(fail_window=pause + max(_LEAST_DELAY, pause / 10))


def invalid_source_asset(name: str, message: str) -> dg.AssetSpec:
    """Return the asset of a source whose entry in `sources.yaml` has a mistake: the graph keeps its place."""
    return dg.AssetSpec(
        source_key(name), group_name="sources", owners=OWNERS, description=f"Not scanned: {message}"
    )


def source_key(name: str) -> dg.AssetKey:
    """Return the asset key of a source."""
    return dg.AssetKey(["sources", identifier(name)])


def index_assets(sources: Sequence[dg.AssetSpec], built: Sequence[VectorKind]) -> list[dg.AssetsDefinition]:
    """Return the assets of the write path, with a collection for each kind of vector that is built."""
    return [documents_asset(sources), document_chunks, vector_collections(built)]


def documents_asset(sources: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """Return the asset `documents`, downstream of all sources."""

    @dg.asset(
        partitions_def=months,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"postgres"},
        deps=[source.key for source in sources],
        description="A month's documents as Markdown, one row per readable item of a source. An item that cannot "
        "be read is quarantined with the reason; a document that is gone from its source is deleted.",
    )
    def documents(
        context: dg.AssetExecutionContext,
        pipeline: dg.ResourceParam[Pipeline],
        month_run: dg.ResourceParam[MonthRun],
    ) -> dg.MaterializeResult:
        month = month_of(context)
        with pipeline.month_lock(month):
            result = ingest_documents(pipeline, month)
        month_run.stats.add(result.counts())
        month_run.unreachable += result.unreachable.values()
        with pipeline.stores.database.connection() as connection:
            newest = documents_table.newest(connection, month, _NEWEST)
        return dg.MaterializeResult(
            metadata={
                "stored": result.stored,
                "unchanged": result.unchanged,
                "deleted": result.deleted,
                "quarantined": len(result.quarantined),
                "quarantine_reasons": table(("document", "reason"), result.quarantined),
                **workers_table("documents", result.workers),
                "unreachable_sources": list(result.unreachable.values()),
                # Their chunks are counted by the next asset, which cuts them.
                "newest_documents": table(("title", "language", "created_at"), [row[:3] for row in newest]),
            }
        )

    return documents


@dg.asset(
    partitions_def=months,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    deps=["documents"],
    description="A month's documents, chunked along their outline. After an edit only the chunks whose text "
    "changed are rewritten; the old version stays searchable until the new one is complete.",
)
def document_chunks(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    month_run: dg.ResourceParam[MonthRun],
) -> dg.MaterializeResult:
    """Chunk the month's new and changed documents."""
    month = month_of(context)
    with pipeline.month_lock(month):
        result = chunk_documents(pipeline, month)
    month_run.stats.add(result.counts())
    with pipeline.stores.database.connection() as connection:
        sizes = chunks_table.size_distribution(connection, month)
        newest = documents_table.newest(connection, month, _NEWEST)
    return dg.MaterializeResult(
        metadata={
            "documents": result.documents,
            "added": result.added,
            "superseded": result.superseded,
            "kept": result.kept,
            **workers_table("documents", result.workers),
            "chunk_sizes": table(("tokens", "chunks"), sizes),
            "newest_documents": table(("title", "language", "created_at", "chunks"), [row[:4] for row in newest]),
            "on_the_search_page": links((row[0], document_page(pipeline.settings, row[4])) for row in newest),
        }
    )


def vector_collections(built: Sequence[VectorKind]) -> dg.AssetsDefinition:
    """Return the collections as one multi-asset: a chunk is embedded in one forward pass for all of them."""

    @dg.multi_asset(
        name="vector_collections",
        specs=[
            dg.AssetSpec(
                collection_asset(kind),
                deps=["document_chunks"],
                group_name=GROUP,
                owners=OWNERS,
                kinds={"milvus"},
                skippable=True,
                description=_COLLECTIONS[kind],
            )
            for kind in built
        ],
        partitions_def=months,
        can_subset=True,
    )
    def collections(
        context: dg.AssetExecutionContext,
        pipeline: dg.ResourceParam[Pipeline],
        month_run: dg.ResourceParam[MonthRun],
    ) -> Iterator[dg.MaterializeResult]:
        month = month_of(context)
        with pipeline.month_lock(month):
            # The live generation can have other kinds than these definitions, until they are loaded again. All that it
            # has are built, unless somebody has chosen some.
            chosen = [kind for kind in built if dg.AssetKey(collection_asset(kind)) in context.selected_asset_keys]
            selected = [kind for kind in pipeline.vectors if kind in chosen or len(chosen) == len(built)]
            # Each step's counts at once: a later step can fail.
            result = index_vectors(pipeline, month, selected)
            month_run.stats.add(result.counts())
            month_run.embedding_tokens += result.embedding_tokens or 0
            month_run.stats.add(deletion_counts(drain_deletions(pipeline, touched=result.touched)))
            touched = if_enough(
                context, result.touched, [vectors_verified(kind) for kind in selected if kind in built]
            )
            month_run.verified = verify(pipeline, month, selected, touched)
            month_run.touched = result.touched
        # Absent where nobody reports them, so that a plot has no zeros that mean nothing.
        billed = {} if result.embedding_tokens is None else {"embedding_tokens": result.embedding_tokens}
        for counts in (counts for counts in month_run.verified if counts.kind in built):
            yield dg.MaterializeResult(
                asset_key=collection_asset(counts.kind),
                metadata={
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
                },
            )

    return collections
