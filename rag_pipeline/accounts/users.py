"""Users: who has an account, with which role and which permissions of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rag_pipeline.accounts import passwords, permissions
from rag_pipeline.errors import ConfigError
from rag_pipeline.stores.postgres import users as table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Database

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
"""The table's own constraint."""
_LONGEST_EMAIL = 255


def add(database: Database, email: str, password: str, *, role: str = "viewer", own: Sequence[str] = ()) -> None:
    """Add a user. Raises `ConfigError` for a malformed or taken address, an unknown role or a short password."""
    if not _EMAIL.fullmatch(email) or len(email) > _LONGEST_EMAIL:
        raise ConfigError(f"{email!r} is not an email address: write one such as hanako@example.com")
    _expect_role(role)
    checked = [permissions.checked(permission) for permission in own]
    password_hash = passwords.hashed(password)
    with database.connection() as connection:
        if not table.insert(connection, email=email, password_hash=password_hash, role=role, permissions=checked):
            raise ConfigError(f"{email} has an account already: `rag-pipeline users list` shows it")


def set_role(database: Database, email: str, role: str) -> None:
    """Change a user's role. Raises `ConfigError` if there is no such user or role."""
    _expect_role(role)
    with database.connection() as connection:
        _expect(table.set_role(connection, email, role), email)


def set_password(database: Database, email: str, password: str) -> None:
    """Change a user's password and unlock the account. Raises `ConfigError` if there is no such user."""
    password_hash = passwords.hashed(password)
    with database.connection() as connection:
        _expect(table.set_password(connection, email, password_hash), email)


def deactivate(database: Database, email: str) -> None:
    """Close an account: the user's keys end with it, at once. Raises `ConfigError` if there is no such user."""
    with database.connection() as connection:
        _expect(table.deactivate(connection, email), email)


def unlock(database: Database, email: str) -> None:
    """Open an account that was locked or deactivated. Raises `ConfigError` if there is no such user."""
    with database.connection() as connection:
        _expect(table.unlock(connection, email), email)


def _expect_role(role: str) -> None:
    if role not in permissions.ROLES:
        raise ConfigError(f"{role!r} is not a role: choose one of {', '.join(permissions.ROLES)}")


def _expect(found: bool, email: str) -> None:
    if not found:
        raise ConfigError(f"no user {email}: `rag-pipeline users list` shows them")
