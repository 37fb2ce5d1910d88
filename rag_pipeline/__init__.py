"""Keeps a retrieval index consistent with its sources: documents from any source in PostgreSQL, Milvus and Redis.

The library layer (everything but `defs` and `definitions`) does not know Dagster and can be used and tested alone;
`rag_pipeline.defs` puts it under Dagster. Floors, from the top; nothing imports upwards:

    defs, cli
    indexing, consistency, search, alerts
    pipeline, dev
    sources, documents, embedding, stores, local_servers, dagster_home
    language, endpoints, settings, months, errors, progress, stopwatch, urls

Nothing imports pandas, pymilvus, torch or FlagEmbedding at load time: a Dagster code server and every run would pay
for it.
"""

__version__ = "0.1.0"
