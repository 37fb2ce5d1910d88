"""The Dagster layer: assets, checks, sensors, schedules, jobs and resources.

Bodies are short: whatever deserves its own test belongs in the library. Nothing here queries a store while the
definitions load: an unreachable database must not take the code location down with it.
"""

import warnings

import dagster as dg

# Partitions of asset checks are a preview in Dagster; the tests cover what they do here.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
# Dagster's own copy of a sensor with several jobs sets it, to None.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition", dg.BetaWarning)
