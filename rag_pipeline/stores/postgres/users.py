"""`users`: accounts, their roles and their own permissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.stores.postgres.database import dicts, objects, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class User:
    """An account, as far as what it may do is concerned."""

    id: UUID
    email: str
    role: str
    permissions: list[str]
    is_active: bool


def by_email(connection: Connection, email: str) -> User | None:
    """Return the account with an address, in capitals or not."""
    found = objects(
        connection,
        User,
        """
        SELECT id, email, role, coalesce(permissions, '{}') AS permissions, is_active FROM users
        WHERE lower(email) = lower(%s)
        """,
        (email,),
    )
    return found[0] if found else None


def insert(
    connection: Connection, *, email: str, password_hash: str, role: str, permissions: Sequence[str]
) -> bool:
    """Add an account; False if the address has one.

    The user name is what is before the @, or the whole address if somebody has that name.
    """
    if by_email(connection, email) is not None:
        return False
    return (
        connection.execute(
            """
            INSERT INTO users (email, username, password_hash, role, permissions)
            SELECT %(email)s::text, CASE WHEN EXISTS (SELECT FROM users WHERE username = %(name)s::text)
                THEN left(%(email)s::text, 100) ELSE %(name)s::text END, %(hash)s, %(role)s, %(permissions)s
            ON CONFLICT DO NOTHING
            """,
            {
                "email": email,
                "name": email.partition("@")[0][:100],
                "hash": password_hash,
                "role": role,
                "permissions": list(permissions),
            },
        ).rowcount
        == 1
    )


def any_active(connection: Connection) -> bool:
    """Whether there is an account that somebody can use."""
    return bool(value(connection, "SELECT EXISTS (SELECT FROM users WHERE is_active)"))


def all_users(connection: Connection) -> list[dict[str, Any]]:
    """Return all accounts, by address, without their passwords."""
    return dicts(
        connection,
        """
        SELECT email, username, role, coalesce(permissions, '{}') AS permissions, is_active, is_verified,
            failed_login_attempts, locked_until, last_login_at, password_changed_at, created_at
        FROM users ORDER BY email
        """,
    )


def set_role(connection: Connection, email: str, role: str) -> bool:
    """Change the role; False without such an account."""
    return _update(connection, email, "role = %(new)s", role)


def set_password(connection: Connection, email: str, password_hash: str) -> bool:
    """Store another password's hash, and forget failed logins; False without such an account."""
    return _update(
        connection,
        email,
        "password_hash = %(new)s, password_changed_at = now(), failed_login_attempts = 0, locked_until = NULL",
        password_hash,
    )


def deactivate(connection: Connection, email: str) -> bool:
    """Close the account; False if there is none."""
    return _update(connection, email, "is_active = false")


def unlock(connection: Connection, email: str) -> bool:
    """Open the account and forget failed logins; False if there is none."""
    return _update(connection, email, "is_active = true, failed_login_attempts = 0, locked_until = NULL")


def _update(connection: Connection, email: str, change: str, new: str | None = None) -> bool:
    return (
        connection.execute(
            f"UPDATE users SET {change}, updated_at = now() WHERE lower(email) = lower(%(email)s)",
            {"email": email, "new": new},
        ).rowcount
        == 1
    )
