"""PostgreSQL (migrations, queries), Milvus (collections), Redis (caches): SQL and store calls live here, with their table or collection."""
