"""Keeps a retrieval index true: documents from any source in PostgreSQL, Milvus and Redis.

The library layer (everything but `defs` and `definitions`) knows nothing of Dagster and can be used and
tested alone; `rag_pipeline.defs` puts it under Dagster. Nothing here imports pandas, pymilvus, torch or
FlagEmbedding at load time: a Dagster code server and every run would pay for it.
"""

__version__ = "0.1.0"
