"""The jobs that work on one month: the one that brings it up to date, and the one that only checks it."""

import dagster as dg

from rag_pipeline.defs.assets import GROUP
from rag_pipeline.defs.month_partitions import months

INDEX_MONTH = "index_month"
CHECK_MONTH = "check_month"

index_month = dg.define_asset_job(
    INDEX_MONTH,
    selection=dg.AssetSelection.groups(GROUP),
    description="Bring one month's documents, chunks and vectors to what the sources hold, and verify the counts.",
)

check_month = dg.define_asset_job(
    CHECK_MONTH,
    selection=dg.AssetSelection.all_asset_checks(),
    # Dagster infers a job's partitions from its assets. This one has none, and would take no month.
    config=dg.PartitionedConfig(partitions_def=months, run_config_for_partition_key_fn=lambda month: {}),
    description="Run all checks of one month, and nothing else.",
)
