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
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.service.problems import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import redis

IDLE_SECONDS = 30 * 60
LONGEST_SECONDS = 12 * 60 * 60
_LINK_SECONDS = 15 * 60
_SESSION, _OF_USER, _LINK = "rag:session:", "rag:sessions:", "rag:link:"


@dataclass(frozen=True)
class Session:
    """A login that still holds."""

    user: UUID
    csrf: str
    """What every form of this session carries, and a form on another site cannot know."""
    began_at: float
    """Seconds since 1970."""

    def is_older_than(self, moment: datetime) -> bool:
        """Whether it began before a moment, such as that of the last change of the password."""
        return self.began_at < moment.timestamp()


class Sessions:
    """Begins, finds and ends sessions. Raises `ProblemError` (503) if Redis does not answer. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def begin(self, user: UUID) -> str:
        """Begin a session; return its id, for the cookie."""
        identity = secrets.token_urlsafe(32)
        session = {"user": str(user), "csrf": secrets.token_urlsafe(32), "began_at": time.time()}
        name, of_user = _name(_SESSION, identity), f"{_OF_USER}{user}"

        def store() -> None:
            with self._redis.pipeline() as pipeline:
                pipeline.set(name, json.dumps(session), ex=IDLE_SECONDS)
                pipeline.sadd(of_user, name)
                pipeline.expire(of_user, LONGEST_SECONDS)
                pipeline.execute()

        _asked(store)
        return identity

    def find(self, identity: str) -> Session | None:
        """Return a session that still holds; each look-up keeps it from becoming idle."""
        name = _name(_SESSION, identity)
        stored = _asked(lambda: self._redis.getex(name, ex=IDLE_SECONDS))
        if stored is None:
            return None
        fields = json.loads(stored)
        session = Session(UUID(fields["user"]), fields["csrf"], fields["began_at"])
        if time.time() - session.began_at > LONGEST_SECONDS:
            _asked(lambda: self._redis.delete(name))
            return None
        return session

    def end(self, identity: str) -> None:
        """End a session."""
        _asked(lambda: self._redis.delete(_name(_SESSION, identity)))

    def end_all(self, user: UUID) -> None:
        """End all sessions of a user."""
        of_user = f"{_OF_USER}{user}"
        names = _asked(lambda: self._redis.smembers(of_user))
        _asked(lambda: self._redis.delete(of_user, *names))

    def make_link(self, user: UUID) -> str:
        """Return a token that logs a user in, once, within a quarter of an hour."""
        token = secrets.token_urlsafe(32)
        _asked(lambda: self._redis.set(_name(_LINK, token), str(user), ex=_LINK_SECONDS))
        return token

    def take_link(self, token: str) -> UUID | None:
        """Return whom a token logs in; it does so only this time."""
        user = _asked(lambda: self._redis.getdel(_name(_LINK, token)))
        return None if user is None else UUID(user.decode())


def _name(kind: str, secret: str) -> str:
    return kind + hashlib.sha256(secret.encode()).hexdigest()


def _asked(call: Callable[[], Any]) -> Any:
    from redis import RedisError

    try:
        return call()
    except (RedisError, OSError):
        raise unavailable("nobody can log in at the moment: the store of sessions does not answer") from None
