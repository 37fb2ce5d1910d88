"""The search service: `rag-pipeline serve`.

HTTP and what belongs to it: routes, who may ask, how much, and how errors look. Searching is in `search`, accounts are
in `accounts`.
"""
