"""The embedded servers: PostgreSQL, Valkey and Milvus Lite on this machine, for development and tests."""
