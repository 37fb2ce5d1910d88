"""The embedded servers: PostgreSQL, Valkey and Milvus Lite on this machine, for development and tests.

All listen on the loopback address only, keep their data under `RAG_HOME`, outlive the command that started them,
and are found again by the next one. A server that a `RAG_*` URL names is used instead, and is never started or
stopped.
"""

from rag_pipeline.local_servers.manager import LocalServers, remembered_urls

__all__ = ["LocalServers", "remembered_urls"]
