"""What the routes of the page share: who has logged in, the forms, and the templates."""

from __future__ import annotations

import re
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rag_pipeline.accounts import logins
from rag_pipeline.accounts.api_keys import Asker
from rag_pipeline.accounts.permissions import JUDGE, SEARCH, allows, of_user
from rag_pipeline.accounts.profiles import avatar_origin
from rag_pipeline.service import problems
from rag_pipeline.service.addresses import network
from rag_pipeline.service.page.asked import WrongSearchError
from rag_pipeline.service.page.showing import plain, zone_of
from rag_pipeline.service.page.texts import TEXTS, language_of
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.searching import in_thread
from rag_pipeline.service.sessions import DEVICE_SECONDS, LONGEST_SECONDS, Link, Session
from rag_pipeline.stores.postgres import users as users_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.service.rate_limits import RateLimits
    from rag_pipeline.service.sessions import Sessions
    from rag_pipeline.stores.postgres.users import Person

HERE = Path(__file__).parent
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


class Visitor:
    """Somebody who has logged in."""

    def __init__(self, person: Person, session: Session) -> None:
        self.person = person
        self.session = session
        self.zone = zone_of(person.timezone)
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
            "zone": self.zone or "UTC",
        }


class Page:
    """What the routes share."""

    def __init__(self, pipeline: Pipeline, sessions: Sessions, limits: RateLimits) -> None:
        self._database = pipeline.stores.database
        self._sessions = sessions
        self._limits = limits
        self.is_secure = pipeline.settings.search_url.startswith("https://")
        # Browsers let no neighbour, such as a sibling domain, set a cookie with this prefix.
        prefix = "__Host-" if self.is_secure else ""
        self.session_cookie, self.login_cookie, self.device_cookie, self.key_cookie = (
            f"{prefix}rag_{name}" for name in ("session", "login", "device", "new_key")
        )
        self.logins = CapacityLimiter(_LOGINS_AT_ONCE)
        logins.nobodys_hash()
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )

    def words(self, request: Request) -> dict[str, str]:
        """Return the words of the page in the browser's language."""
        return dict(TEXTS[_language(request)])

    def said(self, request: Request, error: WrongSearchError) -> str:
        """Return why a search cannot be made."""
        return self.words(request)[error.words].format(**error.values)

    def error(self, request: Request, problem: ProblemError) -> Response:
        """Return the page that tells somebody of an error, and how to go on. It needs no store."""
        words = self.words(request)
        name = problem.words or f"error_{problem.status}"
        seconds = problem.headers.get("Retry-After") if problem.status in (429, 503) else None
        response = self.rendered(
            request,
            "error.html",
            None,
            problem.status,
            says=words.get(name, words["error_other"]),
            again=_wanted(request) if seconds and request.method == "GET" else None,
        )
        response.headers.update(problem.headers)
        return response

    async def visitor(self, request: Request) -> Visitor:
        """Return who asks. Raises `NotLoggedInError`, or a `ProblemError` if they may not search."""
        visitor = await self._logged_in(request)
        if visitor is None:
            raise NotLoggedInError
        admission = await in_thread(self._limits.admit, f"user {visitor.person.id}", _REQUESTS_PER_PERSON)
        if not admission.is_admitted:
            raise ProblemError(429, "too many requests: wait a little", admission.headers)
        if not allows(visitor.asker.permissions, SEARCH):
            raise ProblemError(403, "you may not search", words="no_search")
        return visitor

    async def needs_no_login(self, request: Request) -> bool:
        """Whether somebody has logged in and may search: whoever may not can log in as somebody else."""
        visitor = await self._logged_in(request)
        return visitor is not None and allows(visitor.asker.permissions, SEARCH)

    async def _logged_in(self, request: Request) -> Visitor | None:
        identity = request.cookies.get(self.session_cookie, "")
        return await in_thread(self._visitor, identity) if identity else None

    def _visitor(self, identity: str) -> Visitor | None:
        session = self._sessions.find(identity)
        if session is None:
            return None
        with self._database.connection() as connection:
            person = users_table.person(connection, session.user)
        if person is None or session.is_older_than(person.password_changed_at):
            self._sessions.end(identity)
            return None
        return Visitor(person, session)

    async def form(self, request: Request) -> tuple[Visitor, Any]:
        """Return who sends a form, and the form. Raises `ProblemError` if it does not come from our own page."""
        visitor = await self.visitor(request)
        form = await request.form()
        if not same(visitor.session.csrf, text_of(form, "csrf")):
            raise ProblemError(
                403,
                "this form was not sent from this page, or is too old: go back and send it again",
                words="error_form",
            )
        return visitor, form

    def logged_in(self, request: Request, email: str, password: str) -> UUID | None:
        """Return the user whose password this is; None if it is wrong or too many were tried."""
        address = network(request.client.host if request.client else "")
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
        self.set_cookie(response, self.session_cookie, identity, LONGEST_SECONDS, "lax")
        self.set_cookie(response, self.device_cookie, device, DEVICE_SECONDS, "strict")
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
        self.set_cookie(response, self.login_cookie, token, 3600, "strict")
        return response

    def rendered(
        self, request: Request, template: str, visitor: Visitor | None, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page."""
        words = self.words(request)
        own = {} if visitor is None else visitor.shown
        text = self._templates.get_template(template).render(
            t=words, language=_language(request), plain=plain, **{**own, **values}
        )
        request.state.image_origin = visitor and visitor.image_origin  # For the policy, see `Guard`.
        return HTMLResponse(text, status)

    def set_cookie(self, response: Response, name: str, value: str, seconds: int, site: Any) -> None:
        """Have the browser keep something that no script can read."""
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self.is_secure, httponly=True, samesite=site
        )


def _language(request: Request) -> str:
    return language_of(request.headers.get("accept-language", ""))


def _wanted(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def text_of(form: Any, name: str) -> str:
    """Return a field of a form; PostgreSQL has no NUL in texts."""
    return str(form.get(name, "")).replace("\0", "")


def local(path: str) -> str:
    """Return a path to go on to; the start page for anything that could lead elsewhere."""
    return path if len(path) <= _LONGEST_PATH and _LOCAL.fullmatch(path) else "/"


def same(one: str, other: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing of them."""
    return bool(one) and secrets.compare_digest(one.encode(), other.encode())


def install(app: FastAPI, page: Page) -> None:
    """Have an application send whoever must log in to the login, and then back, and show errors to people as pages."""

    async def to_login(request: Request, error: Exception) -> Response:
        back = _wanted(request)
        if request.method != "GET":
            # A form that its sender has to send again: from the page that it was on.
            back = local(text_of(await request.form(), "back"))
        return RedirectResponse(f"/login?{urlencode({'next': back})}", 303)

    app.add_exception_handler(NotLoggedInError, to_login)
    problems.show_people(app, page.error)
