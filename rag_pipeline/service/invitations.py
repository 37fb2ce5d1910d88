"""Invitations: a link to an account, sent to the address of its person, who then chooses the password."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rag_pipeline.accounts import users
from rag_pipeline.errors import ConfigError, StoreUnavailableError
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.sessions import Sessions
from rag_pipeline.stores.postgres import users as table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.accounts.profiles import Profile
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.users import User

_audit = logging.getLogger("rag_pipeline.audit")

DAYS = 7


@dataclass(frozen=True)
class Invitation:
    """A link that was just made. Nothing can show it again."""

    email: str
    link: str = field(repr=False)
    expires_at: datetime

    def as_json(self) -> dict[str, str]:
        """Return what `rag-pipeline users invite --json` prints."""
        return {"email": self.email, "link": self.link, "expires_at": self.expires_at.isoformat()}


def invite(
    pipeline: Pipeline, email: str, *, role: str | None, own: Sequence[str], profile: Profile
) -> Invitation:
    """Return a link to an account, which is added if there is none: a viewer's, unless `role` says otherwise.

    It works once, within a week, until the password changes; others to the same account work too. Raises `ConfigError`
    for an account that is deactivated or differs from what is asked for, and `StoreUnavailableError` without Redis.
    """
    if not pipeline.redis_answers():
        raise _unavailable()
    database = pipeline.stores.database
    with database.connection() as connection:
        user = table.by_email(connection, email)
    if user is None:
        users.add(database, email, None, role=role or "viewer", own=own, profile=profile)
        with database.connection() as connection:
            user = table.by_email(connection, email)
        assert user is not None
    elif not user.is_active:
        raise ConfigError(f"{user.email} is deactivated: `rag-pipeline users unlock {user.email}` first")
    else:
        _expect_same(user, role, own, profile)
    lasts = timedelta(days=DAYS)
    expires_at = datetime.now(UTC) + lasts
    try:
        with contextlib.closing(RedisBreaker.to(pipeline.endpoints.redis_url)) as redis:
            token = Sessions(redis).make_link(user, int(lasts.total_seconds()))
    except ProblemError:
        raise _unavailable() from None
    _audit.info("invited user %s", user.id)
    return Invitation(user.email, f"{pipeline.settings.search_url}/link/{token}", expires_at)


def _expect_same(user: User, role: str | None, own: Sequence[str], profile: Profile) -> None:
    """An invitation changes nothing of an account that exists; the same command again finds it as it asks for."""
    if role not in (None, user.role):
        raise ConfigError(f"{user.email} is {user.role}: `rag-pipeline users set-role` changes it")
    if own and set(own) != set(user.permissions):
        raise ConfigError(
            f"{user.email} has other permissions: `rag-pipeline users set-permissions` changes them, or invite without "
            "--permission"
        )
    if profile.get("full_name", user.full_name) != user.full_name:
        raise ConfigError(f"{user.email} has another name: `rag-pipeline users set-profile` changes it")


def _unavailable() -> StoreUnavailableError:
    return StoreUnavailableError(
        "Redis does not answer, and it keeps invitations: start it (`rag-pipeline up`), then invite again"
    )
