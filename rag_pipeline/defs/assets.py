"""The assets: sources → documents → document_chunks → the three vector collections, partitioned by month.

No IO manager: the stores hold the data. An asset does its step of the month, see `month_steps`, and returns its
metadata.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg

from rag_pipeline.consistency.asset_names import collection_asset
from rag_pipeline.defs.check_history import passed_before
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.defs.month_steps import chunks_step, documents_step, vectors_step
from rag_pipeline.indexing.month_run import MonthRun
from rag_pipeline.indexing.scan import pauses
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.sources.config import SourceConfig
from rag_pipeline.sources.naming import identifier, sensor_name

OWNERS = ["team:retrieval"]
GROUP = "index"
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
            metadata = documents_step(pipeline, month, month_run)
        return dg.MaterializeResult(metadata=metadata)

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
        metadata = chunks_step(pipeline, month, month_run)
    return dg.MaterializeResult(metadata=metadata)


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
        chosen = [kind for kind in built if dg.AssetKey(collection_asset(kind)) in context.selected_asset_keys]
        with pipeline.month_lock(month):
            by_asset = vectors_step(
                pipeline, month, month_run, built, chosen, passed_before(context.instance, context.run.run_id)
            )
        for asset, metadata in by_asset.items():
            yield dg.MaterializeResult(asset_key=asset, metadata=metadata)

    return collections
