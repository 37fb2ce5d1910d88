"""The routes of logging in and out, and of the account page: API keys and the password."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from rag_pipeline.accounts import api_keys, passwords, users
from rag_pipeline.accounts.permissions import EVERYTHING, JUDGE, METRICS, SEARCH
from rag_pipeline.errors import ConfigError
from rag_pipeline.service.page.page import NotLoggedInError, Page, Visitor, local, same, text_of
from rag_pipeline.service.page.showing import moment, plain
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.searching import in_thread
from rag_pipeline.stores.postgres import api_keys as keys_table
from rag_pipeline.stores.postgres import sources as sources_table

if TYPE_CHECKING:
    from rag_pipeline.service.sessions import Sessions
    from rag_pipeline.stores.postgres.database import Database

_audit = logging.getLogger("rag_pipeline.audit")

_EXPIRIES = (30, 90, 365)
"""Days after which a key can end; or it does not."""
_SHOWN_SECONDS = 60
"""How long the browser may take to ask for the page that shows a new key."""


def add_account_routes(router: APIRouter, page: Page, database: Database, sessions: Sessions) -> None:
    """Add them."""

    @router.get("/login")
    async def login_form(request: Request, next_: Annotated[str, Query(alias="next")] = "/") -> Response:
        if await page.needs_no_login(request):
            return RedirectResponse(local(next_), 303)
        return page.login(request, local(next_))

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = await request.form()
        email, password = text_of(form, "email"), text_of(form, "password")
        to = local(text_of(form, "next"))
        words = page.words(request)
        if not same(request.cookies.get(page.login_cookie, ""), text_of(form, "csrf")):
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
        if not same(request.cookies.get(page.login_cookie, ""), text_of(form, "csrf")):
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
        made = request.cookies.get(page.key_cookie, "")
        response = await in_thread(keys_page, request, visitor, 200, "", made if api_keys.is_key(made) else "")
        if made:
            response.delete_cookie(page.key_cookie, path="/", secure=page.is_secure)
        return response

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        visitor, form = await page.form(request)
        words = page.words(request)
        if not visitor.person.is_verified:
            # Whoever else knows the password could make a key that outlives it.
            return await in_thread(keys_page, request, visitor, 403, words["keys_unverified"])
        name = plain(text_of(form, "name")).strip()[:255]
        wanted = [str(one) for one in form.getlist("permission")]
        days = text_of(form, "expires")
        error = ""
        if not name:
            error = words["key_needs_name"]
        elif not wanted:
            error = words["key_needs_permission"]
        elif days not in ("", *map(str, _EXPIRIES)):
            raise ProblemError(422, f"a key ends after one of {', '.join(map(str, _EXPIRIES))} days, or never")
        if error:
            return await in_thread(keys_page, request, visitor, 422, error)
        ends = datetime.now(UTC) + timedelta(days=int(days)) if days else None

        def make() -> str:
            return api_keys.create(database, name, visitor.person.email, wanted=wanted, expires_at=ends).key

        try:
            made = await in_thread(make)
        except ConfigError:
            error = words["key_refused"].format(most=api_keys.MOST_KEYS)
            return await in_thread(keys_page, request, visitor, 422, error)
        # The browser keeps the key for the next page, which shows it once: no store of ours ever holds it, and
        # a reload makes no second one.
        response = RedirectResponse("/keys", 303)
        page.set_cookie(response, page.key_cookie, made, _SHOWN_SECONDS, "strict")
        return response

    @router.post("/keys/{key}/revoke")
    async def revoke_key(request: Request, key: UUID) -> Response:
        visitor, _ = await page.form(request)
        if not await in_thread(api_keys.revoke_own, database, visitor.person.id, key):
            raise ProblemError(404, "you have no such key")
        return RedirectResponse("/keys", 303)

    @router.get("/password")
    async def password_form(request: Request, changed: bool = False) -> Response:
        visitor = await page.visitor(request)
        return page.rendered(request, "password.html", visitor, changed=changed)

    @router.post("/password")
    async def change_password(request: Request) -> Response:
        visitor, form = await page.form(request)
        person, new = visitor.person, text_of(form, "new")
        words = page.words(request)
        if not visitor.session.by_link:
            present = text_of(form, "password")
            user = await in_thread(page.logged_in, request, person.email, present, limiter=page.logins)
            if user is None:
                return page.rendered(request, "password.html", visitor, 422, error=words["wrong_password"])
        try:
            is_chosen = await in_thread(users.choose_password, database, person, new, limiter=page.logins)
        except passwords.PasswordError as refused:
            error = words[f"password_{refused.reason}"]
            return page.rendered(request, "password.html", visitor, 422, error=error)
        if not is_chosen:
            raise NotLoggedInError
        # Sessions that began before the change end; this one goes on as a new one.
        return await page.begin(request, person.id, "/password?changed=1")

    def keys_page(request: Request, visitor: Visitor, status: int, error: str, made: str = "") -> Response:
        """Return the page of somebody's keys and password."""
        with database.connection() as connection:
            rows = keys_table.of_user(connection, visitor.person.id)
            access = sources_table.access(connection)
        return page.rendered(
            request,
            "keys.html",
            visitor,
            status,
            listed=[_shown(row, visitor.person.timezone) for row in rows],
            grantable=_grantable(visitor, {one for needed in access.values() for one in needed}),
            expiries=_EXPIRIES,
            error=error,
            made=made,
        )


def _grantable(visitor: Visitor, of_sources: set[str]) -> list[str]:
    """Return the permissions that somebody can give a key, and everything; people judge, and keys do not."""
    held = visitor.asker.permissions
    known = {METRICS, *of_sources} if EVERYTHING in held else held
    return [SEARCH, *sorted(known - {SEARCH, JUDGE}), EVERYTHING]


def _shown(row: dict[str, Any], timezone: str) -> dict[str, Any]:
    return {
        **row,
        "name": plain(row["name"]),
        "last_used": moment(row["last_used_at"], timezone),
        "expires": moment(row["expires_at"], timezone),
        "state": "revoked" if not row["is_active"] else "expired" if row["is_expired"] else "active",
    }
