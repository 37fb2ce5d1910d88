"""Search over what the write path has indexed.

`search` finds candidates in the collections or by full text, reads their current rows from PostgreSQL, and ranks
them. Each collection that is searched is a leg with its own candidates; a hybrid search fuses the ranks of several. It
writes nothing but the search counts of the hits, and does not need Redis.
"""

from rag_pipeline.search.engine import search
from rag_pipeline.search.results import MAX_LIMIT, Hit, Mode, SearchResult
from rag_pipeline.stores.filters import Filters

__all__ = ["MAX_LIMIT", "Filters", "Hit", "Mode", "SearchResult", "search"]
