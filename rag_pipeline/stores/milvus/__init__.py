"""Milvus: the connection, the three collections' schemas and generations, and their rows."""
