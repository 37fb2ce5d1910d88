"""`api_keys`: hashes of keys, what they may do, and how much they were used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, objects, value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class ValidKey:
    """A key that can be used now, with the role and permissions of its user."""

    id: UUID
    permissions: list[str]
    rate_limit_per_minute: int
    role: str
    user_permissions: list[str]


def insert(
    connection: Connection,
    *,
    user: UUID,
    key_hash: str,
    key_prefix: str,
    name: str,
    description: str | None,
    permissions: Sequence[str],
    rate: int,
    expires_at: datetime | None,
) -> UUID:
    """Store a key; return its id."""
    identity: UUID = value(
        connection,
        """
        INSERT INTO api_keys (user_id, key_hash, key_prefix, name, description, permissions,
            rate_limit_per_minute, expires_at)
        VALUES (%(user)s, %(hash)s, %(prefix)s, %(name)s, %(description)s, %(permissions)s, %(rate)s, %(expires)s)
        RETURNING id
        """,
        {
            "user": user,
            "hash": key_hash,
            "prefix": key_prefix,
            "name": name,
            "description": description,
            "permissions": list(permissions),
            "rate": rate,
            "expires": expires_at,
        },
    )
    return identity


def active_of_user(connection: Connection, user: UUID) -> int:
    """Return how many keys of a user can be used."""
    count: int = value(
        connection,
        """
        SELECT count(*) FROM api_keys
        WHERE user_id = %s AND is_active AND (expires_at IS NULL OR expires_at > now())
        """,
        (user,),
    )
    return count


def valid(connection: Connection, key_hash: str) -> ValidKey | None:
    """Return the key with a hash if it is active, not expired, and its user is active.

    A locked account's keys work: the lock stops guesses of its password.
    """
    found = objects(
        connection,
        ValidKey,
        """
        SELECT k.id, k.permissions, k.rate_limit_per_minute, u.role,
            coalesce(u.permissions, '{}') AS user_permissions
        FROM api_keys k JOIN users u ON u.id = k.user_id
        WHERE k.key_hash = %s AND k.is_active AND u.is_active
            AND (k.expires_at IS NULL OR k.expires_at > now())
        """,
        (key_hash,),
    )
    return found[0] if found else None


def all_keys(connection: Connection) -> list[dict[str, Any]]:
    """Return all keys, newest first, without their hashes."""
    return dicts(
        connection,
        """
        SELECT k.id, k.key_prefix AS prefix, k.name, k.description, u.email, k.permissions, k.rate_limit_per_minute,
            k.usage_count, k.last_used_at, k.is_active, k.expires_at, k.created_at
        FROM api_keys k JOIN users u ON u.id = k.user_id ORDER BY k.created_at DESC, k.id
        """,
    )


def of_user(connection: Connection, user: UUID) -> list[dict[str, Any]]:
    """Return a user's keys, newest first, without their hashes."""
    return dicts(
        connection,
        """
        SELECT id, key_prefix AS prefix, name, permissions, rate_limit_per_minute AS rate, usage_count, last_used_at,
            is_active, expires_at, coalesce(expires_at <= now(), false) AS is_expired
        FROM api_keys WHERE user_id = %s ORDER BY created_at DESC, id
        """,
        (user,),
    )


def revoke_of_user(connection: Connection, user: UUID, key: UUID) -> str | None:
    """Deactivate a user's key; return its prefix, None if it is not this user's."""
    row = connection.execute(
        "UPDATE api_keys SET is_active = false, updated_at = now() WHERE id = %s AND user_id = %s RETURNING key_prefix",
        (key, user),
    ).fetchone()
    return None if row is None else str(row[0])


def revoke_all_of_user(connection: Connection, user: UUID) -> int:
    """Deactivate the keys of a user; return their number."""
    return connection.execute(
        "UPDATE api_keys SET is_active = false, updated_at = now() WHERE is_active AND user_id = %s", (user,)
    ).rowcount


def revoke(connection: Connection, prefix_or_id: str) -> int:
    """Deactivate the keys with this prefix, or the one with this id; return their number."""
    return connection.execute(
        """
        UPDATE api_keys SET is_active = false, updated_at = now()
        WHERE is_active AND (key_prefix = %(key)s OR id::text = %(key)s)
        """,
        {"key": prefix_or_id},
    ).rowcount


def count_uses(connection: Connection, uses: Mapping[UUID, tuple[int, datetime]]) -> None:
    """Add to the keys' counts: key → (requests, when the last one came).

    In order of their ids, so that processes that do this at once never wait for each other in a circle.
    """
    connection.execute("SET LOCAL synchronous_commit = off")
    connection.execute(
        """
        WITH used AS (
            SELECT k.id, u.requests, u.at
            FROM unnest(%(ids)s::uuid[], %(requests)s::int[], %(at)s::timestamptz[]) AS u(id, requests, at)
            JOIN api_keys k ON k.id = u.id ORDER BY k.id FOR NO KEY UPDATE OF k
        )
        UPDATE api_keys k SET usage_count = coalesce(k.usage_count, 0) + used.requests,
            last_used_at = greatest(k.last_used_at, used.at)
        FROM used WHERE k.id = used.id
        """,
        {
            "ids": list(uses),
            "requests": [count for count, _ in uses.values()],
            "at": [moment for _, moment in uses.values()],
        },
    )
