"""`users`: accounts, their roles and their own permissions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, objects, value, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class User:
    """An account, as whoever manages it needs it."""

    id: UUID
    email: str
    full_name: str
    role: str
    permissions: list[str]
    is_active: bool
    password_changed_at: datetime


def by_email(connection: Connection, email: str) -> User | None:
    """Return the account with an address, in capitals or not."""
    found = objects(
        connection,
        User,
        """
        SELECT id, email, coalesce(full_name, '') AS full_name, role, coalesce(permissions, '{}') AS permissions,
            is_active, password_changed_at
        FROM users WHERE lower(email) = lower(%s)
        """,
        (email,),
    )
    return found[0] if found else None


def insert(
    connection: Connection, *, email: str, password_hash: str, role: str, permissions: Sequence[str]
) -> bool:
    """Add an account; False if the address has one.

    The user name is what is before the @, or the whole address if somebody has that name. If somebody has that too,
    a digest makes it another one.
    """
    if by_email(connection, email) is not None:
        return False
    digest = sha256(email.encode()).hexdigest()
    return (
        connection.execute(
            """
            INSERT INTO users (email, username, password_hash, role, permissions)
            SELECT %(email)s::text, name, %(hash)s, %(role)s, %(permissions)s
            FROM unnest(%(names)s::text[]) WITH ORDINALITY AS possible(name, number)
            WHERE NOT EXISTS (SELECT FROM users WHERE username = name) ORDER BY number LIMIT 1
            ON CONFLICT DO NOTHING
            """,
            {
                "email": email,
                "names": [email.partition("@")[0][:100], email[:100], f"{email[:35]}-{digest}"],
                "hash": password_hash,
                "role": role,
                "permissions": list(permissions),
            },
        ).rowcount
        == 1
    )


@dataclass(frozen=True)
class Login:
    """What a login is checked against."""

    id: UUID
    password_hash: str
    is_active: bool
    is_locked: bool


@dataclass(frozen=True)
class Person:
    """Somebody who has logged in, as pages show them and rights are decided."""

    id: UUID
    email: str
    name: str
    role: str
    permissions: list[str]
    timezone: str
    avatar_url: str
    is_verified: bool
    password_changed_at: datetime


def for_login(connection: Connection, email: str) -> Login | None:
    """Return what a login with this address is checked against."""
    found = objects(
        connection,
        Login,
        """
        SELECT id, password_hash, is_active, coalesce(locked_until > now(), false) AS is_locked FROM users
        WHERE lower(email) = lower(%s)
        """,
        (email,),
    )
    return found[0] if found else None


def person(connection: Connection, identity: UUID) -> Person | None:
    """Return an active user."""
    found = objects(
        connection,
        Person,
        """
        SELECT id, email, coalesce(nullif(full_name, ''), username) AS name, role,
            coalesce(permissions, '{}') AS permissions, coalesce(timezone, 'UTC') AS timezone,
            coalesce(avatar_url, '') AS avatar_url, coalesce(is_verified, false) AS is_verified, password_changed_at
        FROM users WHERE id = %s AND is_active
        """,
        (identity,),
    )
    return found[0] if found else None


def count_failed_login(connection: Connection, identity: UUID, free: int, longest_minutes: int) -> None:
    """Count a wrong password. After `free` of them the account is locked, for twice as long each time."""
    connection.execute(
        """
        UPDATE users SET failed_login_attempts = coalesce(failed_login_attempts, 0) + 1,
            locked_until = CASE WHEN coalesce(failed_login_attempts, 0) + 1 >= %(free)s THEN now() + interval '1 minute'
                * least(%(longest)s, power(2, least(coalesce(failed_login_attempts, 0) + 1 - %(free)s, 20))) END
        WHERE id = %(id)s
        """,
        {"id": identity, "free": free, "longest": longest_minutes},
    )


def record_login(connection: Connection, identity: UUID, new_hash: str | None) -> None:
    """Store that somebody has logged in, and the password's hash if it was made anew."""
    connection.execute(
        """
        UPDATE users SET failed_login_attempts = 0, locked_until = NULL, last_login_at = now(),
            password_hash = coalesce(%s, password_hash)
        WHERE id = %s
        """,
        (new_hash, identity),
    )


def any_active(connection: Connection) -> bool:
    """Whether there is an account that somebody can use."""
    return bool(value(connection, "SELECT EXISTS (SELECT FROM users WHERE is_active)"))


def all_users(connection: Connection) -> list[dict[str, Any]]:
    """Return all accounts, by address, without their passwords."""
    return dicts(
        connection,
        """
        SELECT email, username, full_name, avatar_url, timezone, role, coalesce(permissions, '{}') AS permissions,
            is_active, is_verified, failed_login_attempts, locked_until, last_login_at, password_changed_at, created_at,
            updated_at
        FROM users ORDER BY email
        """,
    )


def set_role(connection: Connection, email: str, role: str) -> bool:
    """Change the role; False without such an account."""
    return _update(connection, email, "role = %(role)s", role=role)


def set_permissions(connection: Connection, email: str, permissions: Sequence[str]) -> str | None:
    """Replace the account's own permissions; return its role, or None without such an account."""
    role: str | None = value(
        connection,
        "UPDATE users SET permissions = %s, updated_at = now() WHERE lower(email) = lower(%s) RETURNING role",
        (list(permissions), email),
    )
    return role


def set_profile(connection: Connection, email: str, profile: Mapping[str, str]) -> bool:
    """Change columns that say how somebody is shown, an empty value to the default; False without such an account."""
    changes = (f"{column} = {f'%({column})s' if new else 'DEFAULT'}" for column, new in profile.items())
    return _update(connection, email, ", ".join(changes), **profile)


_CHANGE_OF_HASH = (
    "password_hash = %(hash)s, password_changed_at = now(), failed_login_attempts = 0, locked_until = NULL"
)


def set_password(connection: Connection, email: str, password_hash: str) -> bool:
    """Store the hash of a password that somebody else knows, and forget failed logins; False without such an account."""
    return _update(connection, email, f"{_CHANGE_OF_HASH}, is_verified = false", hash=password_hash)


def choose_password(connection: Connection, identity: UUID, password_hash: str, changed_at: datetime) -> bool:
    """Store the hash of a password that only its user knows; False if it was changed after `changed_at`."""
    return (
        connection.execute(
            f"""
            UPDATE users SET {_CHANGE_OF_HASH}, is_verified = true, updated_at = now()
            WHERE id = %(id)s AND is_active AND password_changed_at = %(changed_at)s
            """,
            {"hash": password_hash, "id": identity, "changed_at": changed_at},
        ).rowcount
        == 1
    )


def deactivate(connection: Connection, email: str) -> UUID | None:
    """Close the account; return its id, or None if there is none.

    Sessions and links end as with another password: those of before do not come back when it is opened again.
    """
    identity: UUID | None = value(
        connection,
        """
        UPDATE users SET is_active = false, password_changed_at = now(), updated_at = now()
        WHERE lower(email) = lower(%s) RETURNING id
        """,
        (email,),
    )
    return identity


def lock_super_admins(connection: Connection) -> set[UUID]:
    """Return the active super admins; until the transaction ends, none of them changes."""
    return set(
        values(
            connection,
            "SELECT id FROM users WHERE role = 'super_admin' AND is_active ORDER BY id FOR NO KEY UPDATE",
        )
    )


@dataclass(frozen=True)
class Deleted:
    """What went with an account."""

    keys: int
    judgements: int


def delete(connection: Connection, identity: UUID) -> Deleted:
    """Delete the account, with its keys and judgements."""
    (deleted,) = objects(
        connection,
        Deleted,
        """
        SELECT (SELECT count(*) FROM api_keys WHERE user_id = %(id)s)::int AS keys,
            (SELECT count(*) FROM search_judgements WHERE user_id = %(id)s)::int AS judgements
        """,
        {"id": identity},
    )
    connection.execute("DELETE FROM users WHERE id = %s", (identity,))
    return deleted


Opened = Literal["reactivated", "unlocked", "open already"]


def unlock(connection: Connection, email: str) -> Opened | None:
    """Open the account and forget failed logins; return what that changed, or None if there is none."""
    opened: Opened | None = value(
        connection,
        """
        WITH before AS (SELECT id, is_active, locked_until FROM users WHERE lower(email) = lower(%s) FOR UPDATE)
        UPDATE users u SET is_active = true, failed_login_attempts = 0, locked_until = NULL, updated_at = now()
        FROM before b WHERE u.id = b.id
        RETURNING CASE WHEN NOT b.is_active THEN 'reactivated' WHEN b.locked_until > now() THEN 'unlocked'
            ELSE 'open already' END
        """,
        (email,),
    )
    return opened


def _update(connection: Connection, email: str, change: str, **new: str) -> bool:
    return (
        connection.execute(
            f"UPDATE users SET {change}, updated_at = now() WHERE lower(email) = lower(%(email)s)",
            {"email": email, **new},
        ).rowcount
        == 1
    )
