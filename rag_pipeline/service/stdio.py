"""`rag-pipeline mcp`: the tools for agents over standard input and output, for a program that starts this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from rag_pipeline.accounts.api_keys import Asker, authenticate
from rag_pipeline.accounts.permissions import SEARCH, allows
from rag_pipeline.errors import ConfigError
from rag_pipeline.service.mcp_tools import mcp_server
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.rate_limits import RateLimits
from rag_pipeline.service.reading import Reading
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.search_cache import SearchCache
from rag_pipeline.service.searching import Searching, in_thread
from rag_pipeline.service.usage import Usage

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline

_NOBODY = Asker(frozenset({SEARCH}))


def serve_stdio(pipeline: Pipeline) -> None:
    """Answer until standard input ends, with the rights of RAG_API_KEY. Nothing else is written to standard output.

    Raises `ConfigError` if the key is not valid, or may not search.
    """
    database, secret = pipeline.stores.database, pipeline.settings.api_key
    key = None if secret is None else secret.get_secret_value()
    if key is not None and _asker(pipeline, key) is None:
        raise ConfigError("RAG_API_KEY: the key is unknown, revoked or expired, or has no permission search")
    usage, redis = (
        Usage(database, pipeline.settings.search_log_days),
        RedisBreaker.to(pipeline.endpoints.redis_url),
    )
    limits = RateLimits(redis)

    async def asker_of(request: Any) -> Asker:
        if key is None:
            return _NOBODY
        asker = await in_thread(_asker, pipeline, key)
        if asker is None:
            raise ProblemError(401, "the API key of this server is not valid any more")
        assert asker.key_id is not None
        admission = await in_thread(limits.admit, str(asker.key_id), asker.requests_per_minute)
        if not admission.is_admitted:
            raise ProblemError(429, f"this key may make {admission.limit} requests a minute: wait a little")
        usage.used(asker.key_id)
        return asker

    settings = pipeline.settings
    cache = SearchCache(redis, settings.search_cache_seconds, settings.search_consistency)
    searching = Searching(pipeline, cache, usage, Metrics())
    usage.start()
    try:
        anyio.run(mcp_server(searching, Reading(database), asker_of).run_stdio_async)
    finally:
        usage.close()
        searching.close()
        redis.close()


def _asker(pipeline: Pipeline, key: str) -> Asker | None:
    asker = authenticate(pipeline.stores.database, key)
    return asker if asker is not None and allows(asker.permissions, SEARCH) else None
