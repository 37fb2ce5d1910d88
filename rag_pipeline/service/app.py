"""The application: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from mcp.server.transport_security import TransportSecuritySettings

from rag_pipeline.service import problems
from rag_pipeline.service.guard import Guard
from rag_pipeline.service.health import Health
from rag_pipeline.service.mcp_tools import mcp_server
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.next_generation import NextGeneration
from rag_pipeline.service.page.page import Page
from rag_pipeline.service.page.page import install as install_page
from rag_pipeline.service.page.routes import page_routes
from rag_pipeline.service.rate_limits import RateLimits
from rag_pipeline.service.reading import Reading
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.routes import api_routes, operating_routes
from rag_pipeline.service.search_cache import SearchCache
from rag_pipeline.service.searching import Searching
from rag_pipeline.service.sessions import Sessions
from rag_pipeline.service.source_access import SourceAccess
from rag_pipeline.service.usage import Usage

if TYPE_CHECKING:
    from rag_pipeline.accounts.api_keys import Asker
    from rag_pipeline.pipeline import Pipeline


_CONNECTIONS = 5
"""To PostgreSQL, from the start: requests come at the same time."""
# A page on another site that reaches this machine (DNS rebinding) has no key, and browsers have none to add.
_KEYS_SUFFICE = TransportSecuritySettings(enable_dns_rebinding_protection=False)


def create_app(pipeline: Pipeline, metrics: Metrics | None = None, *, closes_pipeline: bool = False) -> FastAPI:
    """Return the service over an open pipeline, which stays its owner's to close unless `closes_pipeline`."""
    database, redis = pipeline.stores.database, RedisBreaker.to(pipeline.endpoints.redis_url)
    metrics, usage = metrics or Metrics(), Usage(database, pipeline.settings.search_log_days)
    settings = pipeline.settings
    cache = SearchCache(redis, settings.search_cache_seconds, settings.search_consistency)
    access, next_generation = SourceAccess(pipeline), NextGeneration(pipeline)
    searching, reading = Searching(pipeline, cache, usage, metrics), Reading(database)
    agents = mcp_server(searching, reading, _asker_of)
    # Each request stands alone, so any process can answer it and the guard sees each.
    for_agents = agents.streamable_http_app(
        stateless_http=True, json_response=True, transport_security=_KEYS_SUFFICE
    )

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        database.keep_open(_CONNECTIONS)
        usage.start()
        access.start()
        next_generation.start()
        try:
            async with agents.session_manager.run():
                yield
        finally:
            next_generation.close()
            access.close()
            usage.close()
            searching.close()
            redis.close()
            if closes_pipeline:
                pipeline.close()

    app = FastAPI(
        title="rag-pipeline",
        summary="Search an index that is kept true",
        lifespan=running,
        # Both would load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        # A redirect would lead to the host that a request names, which may be anybody's.
        redirect_slashes=False,
    )
    problems.install(app)
    limits = RateLimits(redis)
    sessions = Sessions(redis)
    page = Page(pipeline, sessions, limits)
    routers = [
        api_routes(searching, reading),
        operating_routes(Health(pipeline.endpoints), metrics),
        page_routes(pipeline, page, searching, reading, sessions),
    ]
    for router in routers:
        app.include_router(router)
    install_page(app, page)
    app.router.routes.extend(for_agents.routes)
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    app.add_middleware(Guard, pipeline=pipeline, limits=limits, usage=usage, metrics=metrics, routes=routes)
    return app


async def _asker_of(request: Any) -> Asker:
    asker: Asker = request.state.asker
    return asker
