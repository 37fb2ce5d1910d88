"""API keys: made once, shown once, stored as a hash, and recognised by their prefix.

A key is `rag_`, eight characters that are its prefix, `_` and 256 random bits. Such a secret cannot be guessed, so one
SHA-256 is enough to store it, and looking it up by that hash tells nothing by its time: whoever does not know the key
cannot choose the hash.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.accounts import permissions
from rag_pipeline.errors import ConfigError
from rag_pipeline.stores.postgres import api_keys as table
from rag_pipeline.stores.postgres import users as users_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Database

_audit = logging.getLogger("rag_pipeline.audit")

_PREFIX_CHARS = 12
_KEY = re.compile(r"rag_[a-z0-9]{8}_[A-Za-z0-9_-]{43}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
MOST_KEYS = 50
"""Active ones of a user: each has requests of its own."""
DEFAULT_RATE = 100
"""Requests a minute."""


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. Nothing can show it again."""

    key: str
    id: UUID

    @property
    def prefix(self) -> str:
        return self.key[:_PREFIX_CHARS]

    def as_json(self) -> dict[str, str]:
        """Return what `rag-pipeline keys create --json` prints."""
        return {"key": self.key, "prefix": self.prefix, "id": str(self.id)}


@dataclass(frozen=True)
class Asker:
    """Who asks, and what it may do: a valid key as far as its user may, or somebody who has logged in."""

    permissions: frozenset[str]
    key_id: UUID | None = None
    requests_per_minute: int = DEFAULT_RATE


def create(
    database: Database,
    name: str,
    email: str,
    *,
    wanted: Sequence[str] = (),
    rate: int = DEFAULT_RATE,
    expires_at: datetime | None = None,
    description: str | None = None,
) -> NewKey:
    """Make a key of a user. Without permissions it may search; with `*` all that its user may.

    Raises `ConfigError` if there is no such active user, the user does not have a permission that is `wanted`, or the key
    would have expired already.
    """
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ConfigError(f"the key would have expired on {expires_at:%Y-%m-%d %H:%M} UTC: choose a later day")
    needed = [one if one == permissions.EVERYTHING else permissions.checked(one) for one in wanted]
    needed = needed or [permissions.SEARCH]
    key = f"rag_{''.join(secrets.choice(_ALPHABET) for _ in range(8))}_{secrets.token_urlsafe(32)}"
    with database.connection() as connection:
        user = users_table.by_email(connection, email)
        if user is None or not user.is_active:
            raise ConfigError(f"no active user {email}: `rag-pipeline users list` shows them")
        held = permissions.of_user(user.role, user.permissions)
        for permission in needed:
            if permission != permissions.EVERYTHING and not permissions.allows(held, permission):
                raise ConfigError(
                    f"{email} has no permission {permission}, and a key has no more than its user: "
                    f"it can have {', '.join(sorted(held)) or 'none'}"
                )
        if table.active_of_user(connection, user.id) >= MOST_KEYS:
            raise ConfigError(
                f"{email} has {MOST_KEYS} keys already: revoke one first (`rag-pipeline keys revoke`)"
            )
        identity = table.insert(
            connection,
            user=user.id,
            key_hash=_hash(key),
            key_prefix=key[:_PREFIX_CHARS],
            name=name,
            description=description,
            permissions=needed,
            rate=rate,
            expires_at=expires_at,
        )
    _audit.info("made key %s of user %s: %s", key[:_PREFIX_CHARS], user.id, ", ".join(needed))
    return NewKey(key, identity)


def revoke(database: Database, prefix_or_id: str) -> int:
    """Revoke the keys with this prefix, or the one with this id; return their number."""
    with database.connection() as connection:
        count = table.revoke(connection, prefix_or_id)
    if count:  # Or it may be anything, such as a whole key.
        _audit.info("revoked key %s", prefix_or_id)
    return count


def revoke_own(database: Database, user: UUID, key: UUID) -> bool:
    """Revoke a key of a user; False if it is not this user's."""
    with database.connection() as connection:
        prefix = table.revoke_of_user(connection, user, key)
    if prefix is not None:
        _audit.info("revoked key %s of user %s", prefix, user)
    return prefix is not None


def is_key(text: str) -> bool:
    """Whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def authenticate(database: Database, key: str) -> Asker | None:
    """Return whom a key belongs to; None if it is unknown, revoked or expired, or its user is not active.

    Reads PostgreSQL each time, so that a change of rights holds at once.
    """
    if not is_key(key):
        return None
    with database.connection() as connection:
        found = table.valid(connection, _hash(key))
    if found is None:
        return None
    user = permissions.of_user(found.role, found.user_permissions)
    return Asker(permissions.of_key(found.permissions, user), found.id, found.rate_limit_per_minute)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
