"""The assets: sources → documents → document_chunks → the three vector collections, each month a partition.

No IO manager: the stores hold the data, and an asset's body is one call into the library and its metadata.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from rag_pipeline.defs.metadata import table
from rag_pipeline.defs.month_partitions import month_of, months
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.report import chunk_profile, newest_documents
from rag_pipeline.indexing.verify import verify
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind
from rag_pipeline.sources.config import SourceConfig

OWNERS = ["team:retrieval"]
GROUP = "index"


def source_assets(sources: Sequence[SourceConfig]) -> list[dg.AssetSpec]:
    """What exists outside: one external asset a source, so that the graph shows where documents come from."""
    return [
        dg.AssetSpec(
            source_key(source.name),
            group_name="sources",
            owners=OWNERS,
            kinds={source.type},
            description=f"Documents in {source.connection_config()['path']}, looked at by the sensor "
            f"`sync_{source.name}` ({source.schedule}).",
            metadata={"schedule": source.schedule, "include": list(source.include)},
        )
        for source in sources
    ]


def source_key(name: str) -> dg.AssetKey:
    """The asset key of a source."""
    return dg.AssetKey(["sources", name])


def index_assets(sources: Sequence[SourceConfig], built: Sequence[VectorKind]) -> list[dg.AssetsDefinition]:
    """The assets of the write path, for the kinds of vectors that are built."""

    @dg.asset(
        partitions_def=months,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"postgres"},
        deps=[source_key(source.name) for source in sources],
        description="A month's documents as Markdown, one row an item of a source that can be read. What cannot be "
        "read is set aside with its reason; what is gone from its source is deleted.",
    )
    def documents(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult:
        month = month_of(context)
        with pipeline.month_lock(month):
            result = ingest_documents(pipeline, month)
        return dg.MaterializeResult(
            metadata={
                "stored": result.stored,
                "unchanged": result.unchanged,
                "deleted": result.deleted,
                "set_aside": len(result.set_aside),
                "unreachable_sources": list(result.unreachable.values()),
                "reasons": table(("document", "reason"), result.set_aside),
                "newest": table(("title", "language", "created_at", "chunks"), newest_documents(pipeline, month)),
            }
        )

    @dg.asset(
        partitions_def=months,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"postgres"},
        deps=[documents],
        description="A month's documents cut along their outline. After an edit only the chunks whose text changed "
        "are made anew; the old version stays searchable until the new one is complete.",
    )
    def document_chunks(
        context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.MaterializeResult:
        month = month_of(context)
        with pipeline.month_lock(month):
            result = chunk_documents(pipeline, month)
        return dg.MaterializeResult(
            metadata={
                "documents": result.documents,
                "added": result.added,
                "dropped": result.dropped,
                "kept": result.kept,
                "sizes": table(("tokens", "chunks"), chunk_profile(pipeline, month)),
            }
        )

    @dg.multi_asset(
        name="vector_collections",
        specs=[
            dg.AssetSpec(
                f"{kind}_collection",
                deps=[document_chunks],
                group_name=GROUP,
                owners=OWNERS,
                kinds={"milvus"},
                skippable=True,
                description=_DESCRIPTIONS[kind],
            )
            for kind in built
        ],
        partitions_def=months,
        can_subset=True,
    )
    def vector_collections(
        context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> Iterator[dg.MaterializeResult]:
        month = month_of(context)
        selected = [kind for kind in built if dg.AssetKey(f"{kind}_collection") in context.selected_asset_keys]
        with pipeline.month_lock(month):
            result = index_vectors(pipeline, month, selected)
            drain_deletions(pipeline)
            verified = verify(pipeline, month, selected)
        for counts in verified:
            yield dg.MaterializeResult(
                asset_key=f"{counts.kind}_collection",
                metadata={
                    "expected": counts.expected,
                    "stored": counts.stored,
                    "searchable": counts.searchable,
                    "written_chunks": result.written,
                    "embedded_chunks": result.embedded,
                    "from_embedding_cache": result.reused,
                    "embedding_cache": "unreachable" if pipeline.cache_unreachable else "ok",
                    "moved_chunks": result.restated,
                    "documents_switched": result.documents_switched,
                    "failed": table(("chunk", "reason"), result.failed),
                    "waiting_deletions": counts.waiting_deletions,
                },
            )

    return [documents, document_chunks, vector_collections]


_DESCRIPTIONS: dict[str, str] = {
    "dense": "Dense vectors for semantic search (HNSW, inner product), one a chunk.",
    "sparse": "Sparse vectors for keyword search (inverted index, inner product), one a chunk.",
    "multi": "Multi-vectors for fine-grained search, several a chunk: read by key to rerank the best candidates.",
}
