"""Keeps a retrieval index in PostgreSQL and Milvus consistent with its sources.

The library (everything below `defs`) does not import Dagster and can be used and tested alone; `defs` is the Dagster
layer, and `cli` stands on it. `docs/design.md` shows the layers; nothing imports upwards.

Nothing imports pandas, pymilvus, torch or FlagEmbedding at load time: a Dagster code server and every run would pay
for it.
"""

__version__ = "0.1.0"
