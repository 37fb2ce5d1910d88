"""The Dagster code location."""

import dagster as dg

from rag_pipeline.defs.build import build_defs


@dg.definitions
def defs() -> dg.Definitions:
    return build_defs()
