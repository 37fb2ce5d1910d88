"""Queries over what the write path made.

`search` finds candidates in the three collections or by full text, takes what is true of them from PostgreSQL, and
orders them. Nothing here writes, but for the counts of what was shown. Redis is not needed.
"""

from rag_pipeline.search.engine import search
from rag_pipeline.search.results import MAX_LIMIT, Hit, Mode, SearchResult
from rag_pipeline.stores.filters import Filters

__all__ = ["MAX_LIMIT", "Filters", "Hit", "Mode", "SearchResult", "search"]
