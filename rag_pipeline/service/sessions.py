"""`session_store`: who has logged in, in Redis.

A session's id is 256 random bits, of which only a hash is stored: who reads Redis cannot take over a session. It ends
after half an hour without a request, twelve hours after the login, with a logout, and when the password changes. If Redis
is lost, people log in again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from rag_pipeline.service.problems import unavailable
from rag_pipeline.service.redis_breaker import RedisBreaker, RedisDownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.stores.postgres.users import User

IDLE_SECONDS = 30 * 60
LONGEST_SECONDS = 12 * 60 * 60
LINK_SECONDS = 15 * 60
DEVICE_SECONDS = 90 * 24 * 60 * 60
_SESSION, _OF_USER, _LINK, _DEVICE = "rag:session:", "rag:sessions:", "rag:link:", "rag:device:"

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """A login that still holds."""

    user: UUID
    csrf: str
    """What every form of this session carries, and a form on another site cannot know."""
    began_at: float
    """Seconds since 1970."""
    by_link: bool = False
    """Whether it began with a link, not with a password: it may choose one without knowing the present one."""

    def is_older_than(self, moment: datetime) -> bool:
        """Whether it began before a moment, such as that of the last change of the password."""
        return self.began_at < moment.timestamp()


@dataclass(frozen=True)
class Link:
    """Whom a link logs in, as long as the password is the one that the account had when the link was made."""

    user: UUID
    password_changed_at: datetime


class Sessions:
    """Begins, finds and ends sessions. Raises `ProblemError` (503) if Redis does not answer. Thread-safe."""

    def __init__(self, redis: RedisBreaker) -> None:
        self._breaker = redis
        self._redis = redis.client

    def begin(self, user: UUID, *, by_link: bool = False) -> str:
        """Begin a session; return its id, for the cookie."""
        identity = secrets.token_urlsafe(32)
        session = {
            "user": str(user),
            "csrf": secrets.token_urlsafe(32),
            "began_at": time.time(),
            "by_link": by_link,
        }
        name, of_user = _name(_SESSION, identity), f"{_OF_USER}{user}"

        def store() -> None:
            with self._redis.pipeline() as pipeline:
                pipeline.set(name, json.dumps(session), ex=IDLE_SECONDS)
                pipeline.sadd(of_user, name)
                pipeline.expire(of_user, LONGEST_SECONDS)
                pipeline.execute()

        self._asked(store)
        return identity

    def find(self, identity: str) -> Session | None:
        """Return a session that still holds; each look-up keeps it from becoming idle."""
        name = _name(_SESSION, identity)
        stored = self._asked(lambda: self._redis.getex(name, ex=IDLE_SECONDS))
        if stored is None:
            return None
        fields = json.loads(stored)
        session = Session(UUID(fields["user"]), fields["csrf"], fields["began_at"], fields.get("by_link", False))
        if time.time() - session.began_at > LONGEST_SECONDS:
            self._asked(lambda: self._redis.delete(name))
            return None
        return session

    def end(self, identity: str) -> None:
        """End a session."""
        self._asked(lambda: self._redis.delete(_name(_SESSION, identity)))

    def end_all(self, user: UUID) -> None:
        """End all sessions of a user."""
        of_user = f"{_OF_USER}{user}"
        names = self._asked(lambda: self._redis.smembers(of_user))
        self._asked(lambda: self._redis.delete(of_user, *names))

    def make_link(self, user: User, seconds: int = LINK_SECONDS) -> str:
        """Return a token that logs a user in, once, within so many seconds."""
        token = secrets.token_urlsafe(32)
        link = {"user": str(user.id), "password_changed_at": user.password_changed_at.isoformat()}
        self._asked(lambda: self._redis.set(_name(_LINK, token), json.dumps(link), ex=seconds))
        return token

    def find_link(self, token: str) -> Link | None:
        """Return whom a token would log in. It still does so afterwards: programs that check mail open links too."""
        return _link(self._asked(lambda: self._redis.get(_name(_LINK, token))))

    def take_link(self, token: str) -> Link | None:
        """Return whom a token logs in; it does so only this time."""
        return _link(self._asked(lambda: self._redis.getdel(_name(_LINK, token))))

    def make_device(self, user: UUID) -> str:
        """Return a token for a browser in which a user has logged in: it tells this browser from those of strangers."""
        token = secrets.token_urlsafe(32)
        self._asked(lambda: self._redis.set(_name(_DEVICE, token), str(user), ex=DEVICE_SECONDS))
        return token

    def is_device(self, token: str, user: UUID) -> bool:
        """Whether a user has logged in with this browser before."""
        return bool(token) and self._asked(lambda: self._redis.get(_name(_DEVICE, token))) == str(user).encode()

    def forget_device(self, token: str) -> None:
        """Treat a browser as a stranger's."""
        self._asked(lambda: self._redis.delete(_name(_DEVICE, token)))

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            return self._breaker.ask(call)
        except RedisDownError:
            raise unavailable(
                "logins cannot be checked at the moment: the store of sessions does not answer",
                words="no_sessions",
            ) from None


def _link(stored: bytes | None) -> Link | None:
    if stored is None:
        return None
    fields = json.loads(stored)
    return Link(UUID(fields["user"]), datetime.fromisoformat(fields["password_changed_at"]))


def _name(kind: str, secret: str) -> str:
    return kind + hashlib.sha256(secret.encode()).hexdigest()
