"""PostgreSQL (migrations, queries), Milvus (collections, rows), Redis (the client), and what they share.

SQL and store calls live here, with their table or collection, and nowhere else. Nothing here imports the code that
uses the stores: indexing, search, consistency, alerts, the pipeline.
"""
