"""The routes of the HTTP API, and the shapes of what they take."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPBearer
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from rag_pipeline.accounts.api_keys import Asker
from rag_pipeline.search.engine import MAX_QUERY_CHARS
from rag_pipeline.search.results import MAX_LIMIT, Mode
from rag_pipeline.service.health import Health
from rag_pipeline.service.metrics import Metrics
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.reading import MOST_CHUNKS, Reading
from rag_pipeline.service.searching import Searching, gone_from, in_thread
from rag_pipeline.stores.filters import NO_FILTERS, Filters

NO_DOCUMENT = "there is no such document: search for the ids of those that you may see"
_PROBLEMS: dict[int | str, str] = {
    401: "No valid API key.",
    403: "The key lacks a permission.",
    413: "The request is too large.",
    422: "The request is wrong.",
    429: "The key has made its requests of this minute.",
    503: "Too many searches at once, or a store does not answer.",
}


class ProblemDetails(BaseModel):
    """An error (RFC 9457), as `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str


SectionPath = Annotated[
    list[str],
    Field(description="The headings from the outermost to the chunk's own, without the document's title."),
]


class FoundHit(BaseModel):
    """A chunk that was found."""

    document_id: UUID
    source_type: str
    source_id: str
    source_url: str | None
    title: str
    chunk_id: UUID
    position: int
    section_title: str | None
    section_path: SectionPath
    content: str
    score: float
    scores: dict[str, float | None]
    created_at: datetime = Field(description="The document's date.")
    language: str | None
    author: str | None
    category: str | None
    tags: list[str]
    source: str = Field(description="The name of the source.")


HIT_FIELDS = tuple(FoundHit.model_fields)


class FoundDocument(BaseModel):
    """A document, without its text."""

    id: UUID
    title: str
    source: str
    source_type: str
    source_id: str
    source_url: str | None
    author: str | None
    language: str | None
    category: str | None
    tags: list[str]
    created_at: datetime = Field(description="The document's date.")
    indexed_at: datetime | None
    chunks: int = Field(description="How many chunks it has.")


class Chunk(BaseModel):
    """A chunk of a document."""

    chunk_id: UUID
    position: int
    section_title: str | None
    section_path: SectionPath
    hierarchy_level: int
    parent_chunk_id: UUID | None
    chunk_type: str
    content: str


class Chunks(BaseModel):
    """Chunks of a document, in order."""

    chunks: list[Chunk]


class FoundSource(BaseModel):
    """A source that you may see."""

    name: str
    type: str
    last_sync_at: datetime | None
    documents: int | None = Field(description="How many of its documents are ingested.")


class FoundSources(BaseModel):
    """The sources that you may see, by name."""

    sources: list[FoundSource]


class SearchAnswer(BaseModel):
    """The hits, best first."""

    hits: list[FoundHit] = Field(description="With `fields`, each has only those.")
    seconds: float
    cached: bool


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
"""Python alone also takes 20240201 and the weeks of ISO 8601."""
_WHEN = "write a day such as 2024-02-01, or a moment such as 2024-02-01T09:00:00+09:00"


def _moment(value: object) -> object:
    """Take a day, or a moment with its offset. Pydantic alone takes midnight without an offset for a day."""
    if not isinstance(value, str):
        raise ValueError(_WHEN)
    try:
        if not (day := _DAY.match(value)):
            raise ValueError
        if day[0] == value:
            return date.fromisoformat(value)
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"there is no such day or moment: {_WHEN}") from None
    if moment.tzinfo is None:
        raise ValueError("a moment needs its offset from UTC, such as +09:00")
    return moment


def _hit_field(name: str) -> str:
    if name not in HIT_FIELDS:
        raise ValueError(f"a hit has no such field: choose of {', '.join(HIT_FIELDS)}")
    return name


HitField = Annotated[str, AfterValidator(_hit_field), WithJsonSchema({"type": "string", "enum": list(HIT_FIELDS)})]
Moment = Annotated[date | datetime, BeforeValidator(_moment)]
Text = Annotated[str, Field(min_length=1, max_length=255)]


class Given(BaseModel):
    """What a caller gives. Null is what is not given; for a name that there is not, the error has those that there are."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = {field.alias or name: None for name, field in cls.model_fields.items()}
        unknown = [str(name) for name in given if name not in known]
        if unknown:
            choose = f"choose of {', '.join(known)}" if known else "leave it out"
            error = PydanticCustomError("unknown", f"there is no such field: {choose}")
            errors = [InitErrorDetails(type=error, loc=(name,), input=None) for name in unknown]
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return {name: value for name, value in given.items() if value is not None}


class SearchFilters(Given):
    """Which documents can be found; what is left out does not restrict the search."""

    language: str | None = Field(default=None, description="Two lower-case letters (ISO 639-1).", examples=["ja"])
    source: Text | None = Field(default=None, description="The name of a source.")
    source_type: str | None = None
    category: Text | None = None
    tags: list[Text] | None = Field(default=None, max_length=20, description="A document has all of them.")
    author: Text | None = None
    from_: Moment | None = Field(
        default=None, alias="from", description="A day, or a moment with its offset; inclusive."
    )
    to: Moment | None = Field(
        default=None, description="A day, which is included whole, or a moment with its offset."
    )

    def filters(self) -> Filters:
        """Return them as a search takes them. Raises `ConfigError` for what no document can have."""
        return Filters(
            language=self.language,
            source_type=self.source_type,
            source=self.source,
            category=self.category,
            tags=tuple(self.tags or ()),
            author=self.author,
            from_date=self.from_,
            to_date=self.to,
        )


class SearchRequest(Given):
    """A search."""

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARS)
    mode: Mode = "hybrid"
    limit: int = Field(10, ge=1, le=MAX_LIMIT, strict=True)
    offset: int = Field(
        0, ge=0, lt=MAX_LIMIT, strict=True, description="Hits that are left out; offset + limit is at most 100."
    )
    filters: SearchFilters | None = None
    fields: list[HitField] | None = Field(
        default=None,
        min_length=1,
        max_length=len(HIT_FIELDS),
        description="What is returned of each hit; by default all.",
        examples=[["title", "section_path", "content"]],
    )

    def returned(self, hit: dict[str, Any]) -> dict[str, Any]:
        """Return what the answer has of a hit."""
        return hit if self.fields is None else {name: hit[name] for name in HIT_FIELDS if name in self.fields}


def api_routes(searching: Searching, reading: Reading) -> APIRouter:
    """Return the routes under `/v1`, which `guard.Guard` lets only askers with the permission `search` reach."""
    # The guard has looked at the key before; this is for the OpenAPI document.
    router = APIRouter(
        prefix="/v1",
        dependencies=[Depends(HTTPBearer(auto_error=False, description="An API key: rag_…"))],
        responses={status: {"description": what, "model": ProblemDetails} for status, what in _PROBLEMS.items()},
    )

    @router.post("/search", summary="Search the index", responses={200: {"model": SearchAnswer}})
    async def search(body: SearchRequest, request: Request) -> JSONResponse:
        answer = await searching.answer(
            _asker(request),
            body.query,
            body.mode,
            body.offset,
            body.limit,
            body.filters.filters() if body.filters else NO_FILTERS,
            gone_from(request),
        )
        hits = [body.returned(hit) for hit in answer.hits]
        return JSONResponse({"hits": hits, "seconds": round(answer.seconds, 4), "cached": answer.cached})

    # As models: what they read has these keys already, and a test compares them.
    @router.get("/sources", summary="The sources that you may see", **_answers(FoundSources))
    async def list_sources(request: Request) -> dict[str, Any]:
        return {"sources": await in_thread(reading.sources, _asker(request))}

    absent: dict[int | str, dict[str, Any]] = {
        404: {"description": "There is no such document, or you may not see it.", "model": ProblemDetails}
    }

    @router.get(
        "/documents/{document_id}", summary="A document, without its text", **_answers(FoundDocument, absent)
    )
    async def document(document_id: UUID, request: Request) -> dict[str, Any]:
        found = await in_thread(reading.document, _asker(request), document_id)
        if found is None:
            raise ProblemError(404, NO_DOCUMENT)
        return found

    @router.get(
        "/documents/{document_id}/chunks", summary="A document's chunks, in order", **_answers(Chunks, absent)
    )
    async def chunks(
        document_id: UUID,
        request: Request,
        first: Annotated[int, Query(ge=0, le=2**31 - 1, alias="from", description="The first position.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = 50,
    ) -> dict[str, Any]:
        found = await in_thread(reading.with_chunks, _asker(request), document_id, first, limit)
        if found is None:
            raise ProblemError(404, NO_DOCUMENT)
        return {"chunks": found[1]}

    return router


def operating_routes(health: Health, metrics: Metrics) -> APIRouter:
    """Return the routes for whoever operates the service."""
    router = APIRouter()

    @router.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get(
        "/readyz",
        summary="Whether each store answers",
        responses={503: {"description": "PostgreSQL or Milvus does not answer; the same object says which."}},
    )
    async def readyz() -> JSONResponse:
        stores = await in_thread(health.stores, limiter=to_thread.current_default_thread_limiter())
        # Without Redis everything is slower and nothing is wrong.
        is_ready = stores["postgres"] and stores["milvus"]
        return JSONResponse({"ready": is_ready, "stores": stores}, 200 if is_ready else 503)

    @router.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        dependencies=[Depends(HTTPBearer(auto_error=False, description="An API key: rag_…"))],
        response_class=PlainTextResponse,
        responses={
            status: {"description": what, "model": ProblemDetails}
            for status, what in _PROBLEMS.items()
            if status in (401, 403, 429)
        },
    )
    async def metrics_() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _answers(model: type[BaseModel], others: dict[int | str, dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"response_model": None, "responses": {200: {"model": model}} | (others or {})}


def _asker(request: Request) -> Asker:
    asker: Asker = request.state.asker
    return asker
