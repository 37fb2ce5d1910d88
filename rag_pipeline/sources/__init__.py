"""Connectors: what exists out there (scan), and its bytes (fetch).

Nothing here knows a document's format or a store."""
