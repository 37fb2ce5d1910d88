"""The names of the assets that findings are about: two tables, and a collection for each kind of vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.schema_inspection import PARTITIONED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rag_pipeline.settings import VectorKind

TABLE_ASSETS = PARTITIONED


def collection_asset(kind: VectorKind) -> str:
    """Return the asset of the collection of a kind of vector: `dense_collection`."""
    return f"{kind}_collection"


def built_assets(built: Sequence[VectorKind]) -> list[str]:
    """Return all assets, for the kinds of vectors that are built."""
    return [*TABLE_ASSETS, *(collection_asset(kind) for kind in built)]


def kinds_among(assets: Collection[str], built: Sequence[VectorKind]) -> list[VectorKind]:
    """Return the kinds whose collections are among these assets."""
    return [kind for kind in built if collection_asset(kind) in assets]
