"""The job that brings one month up to date."""

import dagster as dg

from rag_pipeline.defs.assets import GROUP
from rag_pipeline.defs.partitions import months

INDEX_MONTH = "index_month"

index_month = dg.define_asset_job(
    INDEX_MONTH,
    selection=dg.AssetSelection.groups(GROUP),
    partitions_def=months,
    description="Bring one month's documents, chunks and vectors to what the sources hold, and verify the counts.",
)
