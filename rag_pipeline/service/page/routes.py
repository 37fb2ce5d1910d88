"""The routes of the search page: searching, reading, logging in and out, keys."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode
from uuid import UUID

from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Query, Request
from jinja2 import Environment, FileSystemLoader
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from rag_pipeline.accounts import api_keys, logins, passwords, users
from rag_pipeline.accounts.api_keys import Asker
from rag_pipeline.accounts.permissions import EVERYTHING, JUDGE, SEARCH, allows, of_user
from rag_pipeline.accounts.profiles import avatar_origin
from rag_pipeline.errors import ConfigError, one_line
from rag_pipeline.months import Month
from rag_pipeline.search.engine import MAX_QUERY_CHARS
from rag_pipeline.search.results import MAX_LIMIT, MODES, Mode
from rag_pipeline.service.page.showing import excerpt, link, moment, pieces, plain
from rag_pipeline.service.page.texts import TEXTS, language_of
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.searching import Answer, asked_as, gone_from, in_thread
from rag_pipeline.service.sessions import DEVICE_SECONDS, LONGEST_SECONDS, Link, Session
from rag_pipeline.stores.filters import Filters
from rag_pipeline.stores.postgres import api_keys as keys_table
from rag_pipeline.stores.postgres import search_judgements
from rag_pipeline.stores.postgres import users as users_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.service.rate_limits import RateLimits
    from rag_pipeline.service.reading import Reading
    from rag_pipeline.service.searching import Searching
    from rag_pipeline.service.sessions import Sessions
    from rag_pipeline.stores.postgres.users import Person

_audit = logging.getLogger("rag_pipeline.audit")

_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_PAGE, _CHUNKS, _BEFORE = 10, 40, 3
_NO_DOCUMENT = "there is no such document"
_SAYS = {"helpful": True, "not helpful": False, "nothing": None}
"""What a form says of a document → what is stored."""
_FACETS = ("source", "language", "category", "tag")
_LOCAL = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
"""A path of this service: `//other.example` and `/\\other.example` lead elsewhere."""
_LONGEST_PATH = 30_000
_LOGINS_AT_ONCE = 2
"""Each takes 64 MB."""
_REQUESTS_PER_PERSON = 300
_LOGINS_PER_ADDRESS, _LOGINS_PER_DEVICE = 30, 5
"""All a minute."""


class NotLoggedInError(Exception):
    """Somebody has to log in first."""


class _Visitor:
    """Somebody who has logged in."""

    def __init__(self, person: Person, session: Session) -> None:
        self.person = person
        self.session = session
        self.asker = Asker(of_user(person.role, person.permissions))
        self.may_judge = allows(self.asker.permissions, JUDGE)
        self.image_origin = avatar_origin(person.avatar_url)

    @property
    def shown(self) -> dict[str, Any]:
        """What every page shows of somebody."""
        return {
            "person": self.person,
            "person_name": plain(self.person.name),
            "avatar": self.person.avatar_url if self.image_origin else None,
            "csrf": self.session.csrf,
            "by_link": self.session.by_link,
        }


def page_routes(
    pipeline: Pipeline, searching: Searching, reading: Reading, sessions: Sessions, limits: RateLimits
) -> APIRouter:
    """Return the routes of the page. `install` has to be called for the same application."""
    router = APIRouter(include_in_schema=False)
    page = _Page(pipeline, sessions, limits)
    database = pipeline.stores.database

    @router.get("/")
    async def search(
        request: Request,
        q: Annotated[str, Query(max_length=MAX_QUERY_CHARS)] = "",
        mode: Mode = "hybrid",
        source: Annotated[str, Query(max_length=255)] = "",
        language: Annotated[str, Query(max_length=10)] = "",
        category: Annotated[str, Query(max_length=255)] = "",
        tag: Annotated[str, Query(max_length=255)] = "",
        from_: Annotated[str, Query(alias="from", max_length=10)] = "",
        to: Annotated[str, Query(max_length=10)] = "",
        page_number: Annotated[int, Query(alias="page", ge=1, le=MAX_LIMIT // _PAGE)] = 1,
        again: bool = False,
    ) -> Response:
        visitor = await page.visitor(request)
        facets = {"source": source, "language": language, "category": category, "tag": tag}
        chosen = {**facets, "from": from_, "to": to}
        shown = _asked(q, mode, chosen) | {"results": None}
        if q.strip():
            try:
                filters = Filters(
                    source=source or None,
                    language=language or None,
                    category=category or None,
                    tags=(tag,) if tag else (),
                    from_date=_day(from_),
                    to_date=_day(to),
                )
                answer = await searching.answer(
                    visitor.asker,
                    q,
                    mode,
                    0,
                    MAX_LIMIT,
                    filters,
                    gone_from(request),
                    logged=page_number == 1 and not again,
                )
            except ConfigError as error:
                return page.rendered(request, "search.html", visitor, 422, **shown, error=one_line(error))
            shown |= await in_thread(_found, answer, q, visitor, page_number, {"q": q, "mode": mode, **chosen})
            if visitor.may_judge:
                shown |= await in_thread(page.judged, visitor, q, shown["results"])
        return page.rendered(request, "search.html", visitor, **shown)

    @router.get("/similar/{document_id}/{position}")
    async def similar(request: Request, document_id: UUID, position: int) -> Response:
        visitor = await page.visitor(request)
        read = await in_thread(reading.with_chunks, visitor.asker, document_id, max(0, position), 1)
        if read is None or not read[1]:
            raise ProblemError(404, "there is no such passage")
        document, (chunk,) = read
        by: Mode = "dense" if "dense" in pipeline.vectors else "fulltext"
        answer = await searching.answer(
            visitor.asker,
            chunk["content"][:MAX_QUERY_CHARS],
            by,
            0,
            _PAGE + 1,
            Filters(),
            gone_from(request),
            logged=False,
        )
        found = await in_thread(_found, _without(answer, str(chunk["chunk_id"])), "", visitor, 1, {})
        words = page.words(request)
        heading = words["similar_to"].format(title=plain(document["title"]))
        shown = _asked("", "hybrid", dict.fromkeys((*_FACETS, "from", "to"), ""))
        return page.rendered(request, "search.html", visitor, **shown, **found, heading=heading)

    @router.post("/judge")
    async def judge(request: Request) -> Response:
        visitor, form = await page.form(request)
        if not visitor.may_judge:
            raise ProblemError(403, f"this needs the permission {JUDGE}: an administrator can give it")
        query, says = asked_as(_text(form, "query")), _text(form, "says")
        identity = _identity(_text(form, "document"))
        document = None
        if identity is not None:
            document = await in_thread(reading.document, visitor.asker, identity)
        if document is None:
            raise ProblemError(404, _NO_DOCUMENT)
        if says not in _SAYS:
            raise ProblemError(422, f"a document is judged by one of {', '.join(_SAYS)}")

        def store() -> None:
            with database.connection() as connection:
                search_judgements.judge(connection, query, document["source_id"], visitor.person.id, _SAYS[says])

        await in_thread(store)
        # Where the hit stands on the page, so that nobody loses their place.
        place = _text(form, "place")
        return RedirectResponse(
            _local(_text(form, "back")) + (f"#hit{place}" if place.isascii() and place.isdigit() else ""), 303
        )

    @router.get("/documents/{document_id}")
    async def document(
        request: Request, document_id: UUID, at: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
    ) -> Response:
        visitor = await page.visitor(request)
        first = max(0, at - _BEFORE)
        read = await in_thread(reading.with_chunks, visitor.asker, document_id, first, _CHUNKS)
        if read is None:
            raise ProblemError(404, _NO_DOCUMENT)
        found, chunks = read
        path = f"/documents/{document_id}"
        last = chunks[-1]["position"] if chunks else 0
        month = Month.of(found["created_at"]).partition_key
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
            chunks=[
                {
                    **chunk,
                    "content": plain(chunk["content"]),
                    "similar": f"/similar/{document_id}/{chunk['position']}",
                }
                for chunk in chunks
            ],
            at=at,
            earlier=f"{path}?at={max(0, first - _CHUNKS + _BEFORE)}" if first else None,
            later=f"{path}?at={last + 1}" if last + 1 < found["chunks"] else None,
        )

    @router.get("/login")
    async def login_form(request: Request, next_: Annotated[str, Query(alias="next")] = "/") -> Response:
        return page.login(request, _local(next_))

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = await request.form()
        email, password = _text(form, "email"), _text(form, "password")
        to = _local(_text(form, "next"))
        words = page.words(request)
        if not _same(request.cookies.get(page.login_cookie, ""), _text(form, "csrf")):
            return page.login(request, to, email, words["expired_form"], 403)
        user = await in_thread(page.logged_in, request, email, password, limiter=page.logins)
        if user is None:
            return page.login(request, to, email, words["wrong_login"], 401)
        return await page.begin(request, user, to)

    @router.get("/link/{token}")
    async def link_form(request: Request, token: str) -> Response:
        person = await in_thread(page.of_link, sessions.find_link, token)
        return page.link(request, person)

    @router.post("/link/{token}")
    async def link_login(request: Request, token: str) -> Response:
        form = await request.form()
        if not _same(request.cookies.get(page.login_cookie, ""), _text(form, "csrf")):
            person = await in_thread(page.of_link, sessions.find_link, token)
            return page.link(request, person, page.words(request)["expired_form"], 403)
        person = await in_thread(page.of_link, sessions.take_link, token)
        if person is None:
            return page.link(request, None)
        _audit.info("login of user %s by a link", person.id)
        return await page.begin(request, person.id, "/password", by_link=True)

    @router.post("/logout")
    async def logout(request: Request, everywhere: bool = False) -> Response:
        visitor, _ = await page.form(request)
        if everywhere:
            await in_thread(sessions.end_all, visitor.person.id)
        await in_thread(sessions.end, request.cookies.get(page.session_cookie, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(page.session_cookie, path="/", secure=page.is_secure)
        return response

    @router.get("/keys")
    async def list_keys(request: Request) -> Response:
        visitor = await page.visitor(request)
        return await page.keys(request, visitor)

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        visitor, form = await page.form(request)
        if not visitor.person.is_verified:
            # Whoever else knows the password could make a key that outlives it.
            error = page.words(request)["keys_unverified"]
            return await page.keys(request, visitor, status=403, error=error)
        name = _text(form, "name").strip()[:255]
        if not name:
            return await page.keys(request, visitor, status=422)
        made = await in_thread(_make_key, database, name, visitor.person.email)
        return await page.keys(request, visitor, made=made)

    @router.post("/keys/{key}/revoke")
    async def revoke_key(request: Request, key: UUID) -> Response:
        visitor, _ = await page.form(request)

        def revoke() -> bool:
            with database.connection() as connection:
                return keys_table.revoke_of_user(connection, visitor.person.id, key)

        if not await in_thread(revoke):
            raise ProblemError(404, "you have no such key")
        return RedirectResponse("/keys", 303)

    @router.get("/password")
    async def password_form(request: Request, changed: bool = False) -> Response:
        visitor = await page.visitor(request)
        return page.rendered(request, "password.html", visitor, changed=changed)

    @router.post("/password")
    async def change_password(request: Request) -> Response:
        visitor, form = await page.form(request)
        person, new = visitor.person, _text(form, "new")
        wrong = len(new) < passwords.SHORTEST
        if not visitor.session.by_link:
            present = _text(form, "password")
            user = await in_thread(page.logged_in, request, person.email, present, limiter=page.logins)
            wrong = wrong or user is None
        if wrong:
            error = page.words(request)["password_length" if visitor.session.by_link else "wrong_password"]
            return page.rendered(request, "password.html", visitor, 422, error=error)
        try:
            is_chosen = await in_thread(users.choose_password, database, person, new, limiter=page.logins)
        except passwords.PasswordError as refused:
            error = page.words(request)[f"password_{refused.reason}"]
            return page.rendered(request, "password.html", visitor, 422, error=error)
        if not is_chosen:
            raise NotLoggedInError
        # Sessions that began before the change end; this one goes on as a new one.
        return await page.begin(request, person.id, "/password?changed=1")

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise ProblemError(404, "there is no such file")
        return FileResponse(_HERE / "static" / name, media_type=_STATIC[name])

    return router


def install(app: FastAPI) -> None:
    """Have an application send whoever must log in to the login, and then back."""

    async def to_login(request: Request, error: Exception) -> Response:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        back = wanted if request.method == "GET" else "/"
        return RedirectResponse(f"/login?{urlencode({'next': back})}", 303)

    app.add_exception_handler(NotLoggedInError, to_login)


class _Page:
    """What the routes share."""

    def __init__(self, pipeline: Pipeline, sessions: Sessions, limits: RateLimits) -> None:
        self._database = pipeline.stores.database
        self._sessions = sessions
        self._limits = limits
        self.is_secure = pipeline.settings.search_url.startswith("https://")
        # Browsers let no neighbour, such as a sibling domain, set a cookie with this prefix.
        prefix = "__Host-" if self.is_secure else ""
        self.session_cookie, self.login_cookie, self.device_cookie = (
            f"{prefix}rag_{name}" for name in ("session", "login", "device")
        )
        self.logins = CapacityLimiter(_LOGINS_AT_ONCE)
        logins.nobodys_hash()
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )

    def words(self, request: Request) -> dict[str, str]:
        """Return the words of the page in the browser's language."""
        return dict(TEXTS[language_of(request.headers.get("accept-language", ""))])

    async def visitor(self, request: Request) -> _Visitor:
        """Return who asks. Raises `NotLoggedInError`, or a `ProblemError` if they may not search."""
        visitor = await in_thread(self._visitor, request.cookies.get(self.session_cookie, ""))
        if visitor is None:
            raise NotLoggedInError
        admission = await in_thread(self._limits.admit, f"user {visitor.person.id}", _REQUESTS_PER_PERSON)
        if not admission.is_admitted:
            raise ProblemError(429, "too many requests: wait a little", admission.headers)
        if not allows(visitor.asker.permissions, SEARCH):
            raise ProblemError(403, "you may not search")
        return visitor

    def _visitor(self, identity: str) -> _Visitor | None:
        session = self._sessions.find(identity) if identity else None
        if session is None:
            return None
        with self._database.connection() as connection:
            person = users_table.person(connection, session.user)
        if person is None or session.is_older_than(person.password_changed_at):
            self._sessions.end(identity)
            return None
        return _Visitor(person, session)

    async def form(self, request: Request) -> tuple[_Visitor, Any]:
        """Return who sends a form, and the form. Raises `ProblemError` if it does not come from our own page."""
        visitor = await self.visitor(request)
        form = await request.form()
        if not _same(visitor.session.csrf, _text(form, "csrf")):
            raise ProblemError(
                403, "this form was not sent from this page, or is too old: go back and send it again"
            )
        return visitor, form

    def logged_in(self, request: Request, email: str, password: str) -> UUID | None:
        """Return the user whose password this is; None if it is wrong or too many were tried."""
        address = _network(request.client.host if request.client else "")
        device = request.cookies.get(self.device_cookie, "")
        if not self._limits.admit(f"login address {address}", _LOGINS_PER_ADDRESS).is_admitted:
            return None

        def is_known(user: UUID) -> bool:
            return self._sessions.is_device(device, user)

        user = logins.log_in(self._database, email, password, is_known)
        if (
            user is None
            and device
            and not self._limits.admit(f"login device {device}", _LOGINS_PER_DEVICE).is_admitted
        ):
            self._sessions.forget_device(device)
        return user

    async def begin(self, request: Request, user: UUID, to: str, *, by_link: bool = False) -> Response:
        """Begin a new session, end the one before, and go on."""
        if before := request.cookies.get(self.session_cookie):
            await in_thread(self._sessions.end, before)
        identity = await in_thread(partial(self._sessions.begin, user, by_link=by_link))
        device = await in_thread(self._sessions.make_device, user)
        response = RedirectResponse(to, 303)
        self._set(response, self.session_cookie, identity, LONGEST_SECONDS, "lax")
        self._set(response, self.device_cookie, device, DEVICE_SECONDS, "strict")
        return response

    def login(self, request: Request, to: str, email: str = "", error: str = "", status: int = 200) -> Response:
        """Return the form to log in with."""
        return self._before_login(request, "login.html", status, next=to, email=email, error=error)

    def of_link(self, find: Callable[[str], Link | None], token: str) -> Person | None:
        """Return whom a link logs in; None if it is unknown or used, or the password has changed since it was made."""
        link = find(token)
        if link is None:
            return None
        with self._database.connection() as connection:
            person = users_table.person(connection, link.user)
        return person if person and person.password_changed_at == link.password_changed_at else None

    def link(self, request: Request, person: Person | None, error: str = "", status: int = 200) -> Response:
        """Return the button that logs somebody in: programs that check mail open links, and press nothing."""
        if person is None:
            return self.login(request, "/", "", self.words(request)["bad_link"], 401)
        return self._before_login(request, "link.html", status, email=person.email, error=error)

    def _before_login(self, request: Request, template: str, status: int, **values: Any) -> Response:
        """Return a form of somebody who has no session yet: a cookie tells that it was sent from our own page."""
        token = secrets.token_urlsafe(32)
        response = self.rendered(request, template, None, status, csrf=token, **values)
        self._set(response, self.login_cookie, token, 3600, "strict")
        return response

    def judged(self, visitor: _Visitor, query: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what the template shows of what somebody said of these documents before."""
        names = [hit["judged_as"] for hit in results]
        with self._database.connection() as connection:
            said = search_judgements.of_user(connection, asked_as(query), names, visitor.person.id)
        return {"said": said}

    async def keys(self, request: Request, visitor: _Visitor, status: int = 200, **shown: Any) -> Response:
        """Return the page of somebody's keys and password."""

        def listed() -> list[dict[str, Any]]:
            with self._database.connection() as connection:
                return keys_table.of_user(connection, visitor.person.id)

        return self.rendered(request, "keys.html", visitor, status, listed=await in_thread(listed), **shown)

    def rendered(
        self, request: Request, template: str, visitor: _Visitor | None, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page."""
        words = self.words(request)
        own = {} if visitor is None else visitor.shown
        text = self._templates.get_template(template).render(
            t=words, language=language_of(request.headers.get("accept-language", "")), **{**own, **values}
        )
        request.state.image_origin = visitor and visitor.image_origin  # For the policy, see `Guard`.
        return HTMLResponse(text, status)

    def _set(self, response: Response, name: str, value: str, seconds: int, site: Any) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self.is_secure, httponly=True, samesite=site
        )


def _asked(query: str, mode: Mode, chosen: dict[str, str]) -> dict[str, Any]:
    """Return what the template shows of a question."""
    return {"query": query, "mode": mode, "modes": MODES, "chosen": chosen, "names": _FACETS}


def _found(answer: Answer, query: str, visitor: _Visitor, number: int, asked: dict[str, str]) -> dict[str, Any]:
    """Return what the template shows of an answer."""
    first = (number - 1) * _PAGE

    def url(**changed: str) -> str:
        parameters = {name: value for name, value in {**asked, **changed}.items() if value}
        return f"/?{urlencode(parameters)}"

    results = [
        {
            "document_id": hit["document_id"],
            "judged_as": hit["source_id"],
            "title": plain(hit["title"]),
            "section": plain(hit["section_title"]) if hit["section_title"] != hit["title"] else "",
            "source_id": plain(hit["source_id"]),
            "excerpt": excerpt(pieces(hit["content"], query)),
            "date": date.isoformat(),
            "shown_date": moment(date, visitor.person.timezone),
            "ranks": place,
            "open": f"/documents/{hit['document_id']}?at={hit['position']}#p{hit['position']}",
            "similar": f"/similar/{hit['document_id']}/{hit['position']}",
        }
        for hit, date, place in list(zip(answer.hits, answer.dates, answer.ranks, strict=True))[
            first : first + _PAGE
        ]
    ]
    total = len(answer.hits)
    return {
        "results": results,
        "total": total,
        "first": first + 1,
        "seconds": answer.seconds,
        "cached": answer.cached,
        "facets": {
            name: [(value, count, url(**{name: value})) for value, count in answer.facets[name].items()]
            for name in _FACETS
        }
        if asked
        else {},
        "without": {name: url(**{name: ""}) for name in _FACETS},
        "here": url(page=str(number), again="1"),
        "previous": url(page=str(number - 1)) if asked and number > 1 else None,
        "next": url(page=str(number + 1)) if asked and first + _PAGE < total else None,
    }


def _without(answer: Answer, chunk: str) -> Answer:
    """Return an answer without a chunk."""
    kept = [number for number, hit in enumerate(answer.hits) if hit["chunk_id"] != chunk][:_PAGE]
    return replace(
        answer,
        hits=[answer.hits[number] for number in kept],
        dates=[answer.dates[number] for number in kept],
        ranks=[answer.ranks[number] for number in kept],
    )


def _text(form: Any, name: str) -> str:
    """Return a field of a form; PostgreSQL has no NUL in texts."""
    return str(form.get(name, "")).replace("\0", "")


def _make_key(database: Any, name: str, email: str) -> str:
    """Make a key that may do what its user may."""
    return api_keys.create(database, name, email, wanted=[EVERYTHING]).key


def _identity(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a day: write it as 2024-02-01") from None


def _local(path: str) -> str:
    """Return a path to go on to; the start page for anything that could lead elsewhere."""
    return path if len(path) <= _LONGEST_PATH and _LOCAL.fullmatch(path) else "/"


def _network(address: str) -> str:
    """Return what is counted as one address: of IPv6 a network of 64 bits, which is what one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _same(one: str, other: str) -> bool:
    return bool(one) and secrets.compare_digest(one.encode(), other.encode())
