"""The months in use, and partitions ahead of time: those of the current month and the next two, in every store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.collection_lock import sole_writer
from rag_pipeline.stores.milvus.partitions import create_partition, existing_collections
from rag_pipeline.stores.postgres import documents, schema, source_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.pipeline import Pipeline


@dataclass
class PartitionsResult:
    """The partitions that were missing and have been created."""

    months: list[Month] = field(default_factory=list)
    """In PostgreSQL."""
    collections: dict[str, list[Month]] = field(default_factory=dict)
    """In Milvus, by physical collection."""


def create_partitions(pipeline: Pipeline, now: Month | None = None) -> PartitionsResult:
    """Create the missing partitions of the current month (`now`) and the next two.

    Collections that do not exist yet are left alone: the first run of a month creates them. Raises a `RagError` if a
    collection already has as many partitions as a real Milvus allows.
    """
    running = now or Month.now()
    months = [running, running.next(), running.next().next()]
    database, milvus = pipeline.stores.database, pipeline.stores.milvus
    result = PartitionsResult(schema.ensure_months(database, months))
    for _, collection in existing_collections(milvus, pipeline.settings.milvus_prefix):
        with sole_writer(database, milvus, collection):
            created = [month for month in months if create_partition(milvus, collection, month)]
        if created:
            result.collections[collection] = created
    return result


def months_in_use(pipeline: Pipeline, known: Sequence[Month]) -> list[Month]:
    """Return the months that have a partition in PostgreSQL or pending work, in order.

    A month among the `known` ones whose partition was lost stays while a source holds items of it: it can be repaired.
    """
    database = pipeline.stores.database
    found = set(schema.existing_months(database))
    with database.connection() as connection:
        found.update(documents.months_with_work(connection))
        if lost := [month for month in known if month not in found]:
            found.update(source_items.months_with_items(connection, lost))
    return sorted(found)
