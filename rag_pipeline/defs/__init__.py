"""The Dagster layer: assets, checks, sensors, schedules, jobs and resources.

Bodies that one can read at a glance; whatever is worth testing alone belongs in the library. Nothing here asks a
store while definitions load: a database that is down must not take the code location with it.
"""

import warnings

import dagster as dg

# Partitions of asset checks are a preview in Dagster; what they do here is covered by tests.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
