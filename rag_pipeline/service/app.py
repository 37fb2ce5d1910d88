"""The application: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from rag_pipeline.service import problems
from rag_pipeline.service.guard import Guard
from rag_pipeline.service.health import Health
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.rate_limits import RateLimits
from rag_pipeline.service.routes import api_routes, operating_routes
from rag_pipeline.service.search_cache import SearchCache
from rag_pipeline.service.searching import Searching
from rag_pipeline.service.source_access import SourceAccess
from rag_pipeline.service.usage import Usage

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline


def create_app(pipeline: Pipeline) -> FastAPI:
    """Return the service over an open pipeline, which stays its owner's to close."""
    database, redis = pipeline.stores.database, pipeline.stores.redis
    metrics, usage = Metrics(), Usage(database)
    cache = SearchCache(redis, pipeline.settings.search_cache_seconds)
    access = SourceAccess(pipeline)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        usage.start()
        access.start()
        try:
            yield
        finally:
            access.close()
            usage.close()

    app = FastAPI(
        title="rag-pipeline",
        summary="Search an index that is kept true",
        lifespan=running,
        # Both would load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.include_router(api_routes(pipeline, Searching(pipeline, cache, usage, metrics)))
    app.include_router(operating_routes(Health(pipeline.endpoints), metrics))
    app.add_middleware(Guard, pipeline=pipeline, limits=RateLimits(redis), usage=usage, metrics=metrics)
    return app
