"""The routes of the search page: searching, reading and judging; those of accounts are in `account_routes`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from rag_pipeline.accounts.permissions import JUDGE
from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month
from rag_pipeline.search.engine import MAX_QUERY_CHARS
from rag_pipeline.search.results import MAX_LIMIT, MODES, Mode
from rag_pipeline.service.page.account_routes import add_account_routes
from rag_pipeline.service.page.asked import (
    FACETS,
    MOST_QUERY_CHARS,
    PAGE,
    Asked,
    WrongSearchError,
    asked,
    query_of,
)
from rag_pipeline.service.page.page import HERE, Page, Visitor, local, text_of
from rag_pipeline.service.page.showing import excerpt, link, moment, parts, pieces, plain, without_marks
from rag_pipeline.service.page.texts import LANGUAGES
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.routes import NO_DOCUMENT
from rag_pipeline.service.searching import Answer, asked_as, gone_from, in_thread
from rag_pipeline.stores.filters import Filters
from rag_pipeline.stores.postgres import search_judgements

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.service.reading import Reading
    from rag_pipeline.service.searching import Searching
    from rag_pipeline.service.sessions import Sessions

_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_CHUNKS, _BEFORE = 40, 3
_SAYS = {"helpful": True, "not helpful": False, "nothing": None}
"""What a form says of a document → what is stored."""
_InAddress = Annotated[Asked, Depends(asked)]


def page_routes(
    pipeline: Pipeline, page: Page, searching: Searching, reading: Reading, sessions: Sessions
) -> APIRouter:
    """Return the routes of the page. `page.install` has to be called for the same application."""
    router = APIRouter(include_in_schema=False)
    database = pipeline.stores.database

    @router.get("/")
    async def search(request: Request, asked: _InAddress, again: bool = False) -> Response:
        visitor = await page.visitor(request)
        shown = _form(pipeline, asked) | {"results": None}
        if asked.query:
            try:
                answer = await searching.answer(
                    visitor.asker,
                    asked.query,
                    asked.mode,
                    0,
                    MAX_LIMIT,
                    asked.filters(visitor.zone),
                    gone_from(request),
                    logged=asked.number == 1 and not again,
                    shown=lambda hits: hits[(asked.number - 1) * PAGE : asked.number * PAGE],
                )
            except WrongSearchError as error:
                return page.rendered(
                    request, "search.html", visitor, 422, **shown, error=page.said(request, error)
                )
            except ConfigError:
                wrong = WrongSearchError("wrong_search")
                return page.rendered(
                    request, "search.html", visitor, 422, **shown, error=page.said(request, wrong)
                )
            shown |= await in_thread(_found, answer, asked, visitor)
            shown |= _around(answer, asked)
            if visitor.may_judge:
                shown["said"] = await in_thread(said_of, visitor, asked.query, shown["results"])
        return page.rendered(request, "search.html", visitor, **shown)

    @router.get("/similar/{document_id}/{position}")
    async def similar(request: Request, document_id: UUID, position: int, asked: _InAddress) -> Response:
        visitor = await page.visitor(request)
        read = await in_thread(reading.with_chunks, visitor.asker, document_id, max(0, position), 1)
        if read is None or not read[1]:
            raise ProblemError(404, "there is no such passage", words="error_404")
        document, (chunk,) = read
        by: Mode = "dense" if "dense" in pipeline.vectors else "fulltext"
        answer = await searching.answer(
            visitor.asker,
            chunk["content"][:MAX_QUERY_CHARS],
            by,
            0,
            PAGE + 1,
            Filters(),
            gone_from(request),
            logged=False,
            shown=lambda hits: [hit for hit in hits if hit["chunk_id"] != str(chunk["chunk_id"])][:PAGE],
        )
        others = _without(answer, str(chunk["chunk_id"]))
        found = await in_thread(_found, others, replace(asked, number=1), visitor, False)
        heading = page.words(request)["similar_to"].format(title=plain(document["title"]))
        shown = _form(pipeline, Asked()) | found
        return page.rendered(request, "search.html", visitor, **shown, heading=heading, back=asked.url())

    @router.post("/judge")
    async def judge(request: Request) -> Response:
        visitor, form = await page.form(request)
        if not visitor.may_judge:
            raise ProblemError(
                403, f"this needs the permission {JUDGE}: an administrator can give it", words="no_judging"
            )
        # The page that the form was on has the query; a second one in the form could be too much for a request.
        back, says = local(text_of(form, "back")), text_of(form, "says")
        query = asked_as(query_of(back))
        identity = _identity(text_of(form, "document"))
        document = None
        if identity is not None:
            document = await in_thread(reading.document, visitor.asker, identity)
        if document is None:
            raise ProblemError(404, NO_DOCUMENT, words="error_404")
        if says not in _SAYS:
            raise ProblemError(422, f"a document is judged by one of {', '.join(_SAYS)}")

        def store() -> None:
            with database.connection() as connection:
                search_judgements.judge(connection, query, document["source_id"], visitor.person.id, _SAYS[says])

        await in_thread(store)
        # Where the hit stands on the page, so that nobody loses their place.
        place = text_of(form, "place")
        return RedirectResponse(back + (f"#hit{place}" if place.isascii() and place.isdigit() else ""), 303)

    @router.get("/documents/{document_id}")
    async def document(
        request: Request,
        document_id: UUID,
        asked: _InAddress,
        at: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    ) -> Response:
        visitor = await page.visitor(request)
        first = max(0, at - _BEFORE)
        read = await in_thread(reading.with_chunks, visitor.asker, document_id, first, _CHUNKS)
        if read is not None and not read[1] and read[0]["chunks"]:
            # A link from when the document was longer: what is left of it ends before.
            first = max(0, read[0]["chunks"] - 1 - _BEFORE)
            read = await in_thread(reading.with_chunks, visitor.asker, document_id, first, _CHUNKS)
        if read is None:
            raise ProblemError(404, NO_DOCUMENT, words="error_404")
        found, chunks = read
        path = f"/documents/{document_id}"
        last = chunks[-1]["position"] if chunks else 0
        month = Month.of(found["created_at"]).partition_key

        def shown() -> list[dict[str, Any]]:
            paths = [chunk["section_path"] for chunk in chunks]
            return [
                {
                    "position": chunk["position"],
                    "path": [plain(heading) for heading in path if path != before and not _says(chunk, path)],
                    "parts": parts(chunk["content"], asked.query),
                    "similar": asked.url(f"/similar/{document_id}/{chunk['position']}"),
                }
                for chunk, path, before in zip(chunks, paths, [None, *paths], strict=False)
            ]

        return page.rendered(
            request,
            "document.html",
            visitor,
            document={
                "title": plain(found["title"]),
                "source_id": plain(found["source_id"]),
                "author": plain(found["author"]),
                "url": link(found["source_url"]),
                "date": found["created_at"].isoformat(),
                "shown_date": moment(found["created_at"], visitor.person.timezone),
                "month_url": f"{pipeline.settings.ui_url}/assets/documents?view=partitions&partition={quote(month)}",
            },
            chunks=await in_thread(shown),
            at=at,
            is_gone=at > 0 and at >= found["chunks"],
            back=asked.url(),
            earlier=asked.url(path, at=max(0, first - _CHUNKS + _BEFORE)) if first else None,
            later=asked.url(path, at=last + 1) if last + 1 < found["chunks"] else None,
        )

    add_account_routes(router, page, database, sessions)

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise ProblemError(404, "there is no such file")
        return FileResponse(HERE / "static" / name, media_type=_STATIC[name])

    def said_of(visitor: Visitor, query: str, results: list[dict[str, Any]]) -> dict[str, bool]:
        """Return what somebody said of these documents before."""
        names = [hit["judged_as"] for hit in results]
        with database.connection() as connection:
            return search_judgements.of_user(connection, asked_as(query), names, visitor.person.id)

    return router


def _form(pipeline: Pipeline, asked: Asked) -> dict[str, Any]:
    """Return what the form shows of a search: the modes are those whose vectors are built."""
    built = {*pipeline.vectors, "fulltext", *(["hybrid"] if {"dense", "sparse"} & {*pipeline.vectors} else [])}
    return {
        "asked": asked,
        "modes": [mode for mode in MODES if mode in built],
        "names": FACETS,
        "longest": MOST_QUERY_CHARS,
    }


def _found(answer: Answer, asked: Asked, visitor: Visitor, is_paged: bool = True) -> dict[str, Any]:
    """Return what the template shows of the hits of a page. Words are highlighted where they are what was asked."""
    first = (asked.number - 1) * PAGE
    hits = list(zip(answer.hits, answer.dates, answer.ranks, strict=True))[first : first + PAGE]
    query = asked.query if is_paged else ""
    return {
        "results": [
            {
                "document_id": hit["document_id"],
                "judged_as": hit["source_id"],
                "title": plain(hit["title"]),
                "path": [plain(heading) for heading in hit["section_path"]],
                "source_id": plain(hit["source_id"]),
                "excerpt": excerpt(pieces(without_marks(hit["content"]), query)),
                "date": date.isoformat(),
                "shown_date": moment(date, visitor.person.timezone),
                "ranks": places,
                "open": asked.url(f"/documents/{hit['document_id']}", at=hit["position"]) + f"#p{hit['position']}",
                "similar": asked.url(f"/similar/{hit['document_id']}/{hit['position']}"),
            }
            for hit, date, places in hits
        ],
        "total": len(answer.hits),
        "first": first + 1,
        "seconds": answer.seconds,
        "cached": answer.cached,
        "facets": [],
    }


def _says(chunk: dict[str, Any], path: list[str]) -> bool:
    """Whether a chunk begins with the one heading that its path has."""
    return len(path) == 1 and chunk["content"].partition("\n")[0].lstrip("#").strip() == path[0]


def _identity(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _around(answer: Answer, asked: Asked) -> dict[str, Any]:
    """Return what the template shows around the hits: the facets, and the other pages."""
    number = asked.number
    return {
        "facets": [
            {
                "name": name,
                "chosen": [
                    (_named(name, value), asked.without_value(name, value).url()) for value in asked.values(name)
                ],
                "others": [
                    (_named(name, value), count, asked.with_value(name, value).url())
                    for value, count in answer.facets[name].items()
                    if value not in asked.values(name) and (name == "tag" or not asked.values(name))
                ],
            }
            for name in FACETS
            if answer.facets[name] or asked.values(name)
        ],
        "here": f"{asked.url()}&again=1",
        "previous": asked.on_page(number - 1).url() if number > 1 else None,
        "next": asked.on_page(number + 1).url() if number * PAGE < len(answer.hits) else None,
    }


def _named(facet: str, value: str) -> str:
    return plain(LANGUAGES.get(value, value) if facet == "language" else value)


def _without(answer: Answer, chunk: str) -> Answer:
    """Return an answer without a chunk: the others move up in the places behind it."""
    kept = [number for number, hit in enumerate(answer.hits) if hit["chunk_id"] != chunk][:PAGE]
    left_out = [places for hit, places in zip(answer.hits, answer.ranks, strict=True) if hit["chunk_id"] == chunk]

    def moved_up(places: dict[str, int]) -> dict[str, int]:
        return {
            leg: place - sum(place > other.get(leg, place) for other in left_out) for leg, place in places.items()
        }

    return replace(
        answer,
        hits=[answer.hits[number] for number in kept],
        dates=[answer.dates[number] for number in kept],
        ranks=[moved_up(answer.ranks[number]) for number in kept],
    )
