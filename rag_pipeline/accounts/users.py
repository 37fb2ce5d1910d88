"""Users: who has an account, with which role and which permissions of their own.

An account is verified once its person has chosen the password: until then somebody else knows it, or nobody does.
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import TYPE_CHECKING

from rag_pipeline.accounts import passwords, permissions
from rag_pipeline.errors import ConfigError
from rag_pipeline.stores.postgres import api_keys
from rag_pipeline.stores.postgres import users as table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.accounts.profiles import Profile
    from rag_pipeline.stores.postgres.database import Connection, Database
    from rag_pipeline.stores.postgres.users import Deleted, Opened, Person, User

_audit = logging.getLogger("rag_pipeline.audit")

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
"""The table's own constraint."""
_LONGEST_EMAIL = 255


def add(
    database: Database,
    email: str,
    password: str | None,
    *,
    role: str = "viewer",
    own: Sequence[str] = (),
    profile: Profile | None = None,
) -> None:
    """Add a user, whose account is not verified. Without a password it has one that nobody knows.

    Raises `ConfigError` for a malformed or taken address, an unknown role or a password that is easy to guess.
    """
    if not _EMAIL.fullmatch(email) or len(email) > _LONGEST_EMAIL:
        raise ConfigError(f"{email!r} is not an email address: write one such as hanako@example.com")
    _expect_role(role)
    checked = [permissions.checked(permission) for permission in own]
    if password is None:
        password_hash = passwords.hashed(secrets.token_urlsafe(32))
    else:
        password_hash = passwords.chosen(password, email)
    with database.connection() as connection:
        if not table.insert(connection, email=email, password_hash=password_hash, role=role, permissions=checked):
            raise ConfigError(f"{email} has an account already: `rag-pipeline users list` shows it")
        if profile:
            table.set_profile(connection, email, profile)
        _log(connection, email, f"was added as {role}")


def set_role(database: Database, email: str, role: str) -> None:
    """Change a user's role. Raises `ConfigError` if there is no such user or role, or it is the last super admin."""
    _expect_role(role)
    with database.connection() as connection:
        if role != "super_admin":
            _expect_not_last(connection, email)
        _expect(table.set_role(connection, email, role), email)
        _log(connection, email, f"is {role} now")


def set_permissions(database: Database, email: str, own: Sequence[str]) -> frozenset[str]:
    """Replace a user's own permissions; return all that the user has now, those of the role included.

    Raises `ConfigError` if there is no such user, or a permission cannot be called so.
    """
    checked = sorted({permissions.checked(permission) for permission in own})
    with database.connection() as connection:
        role = table.set_permissions(connection, email, checked)
        if role is None:
            raise _nobody(email)
        _log(connection, email, f"has the permissions {', '.join(checked) or 'of the role only'} now")
    return permissions.of_user(role, checked)


def set_profile(database: Database, email: str, profile: Profile) -> None:
    """Change how a user is shown. Raises `ConfigError` if nothing is to change, or there is no such user."""
    if not profile:
        raise ConfigError("nothing to change: give --name, --timezone or --avatar")
    with database.connection() as connection:
        _expect(table.set_profile(connection, email, profile), email)


def set_password(database: Database, email: str, password: str) -> None:
    """Change the password of somebody else and unlock the account, which is not verified any more.

    Raises `ConfigError` if there is no such user, and `PasswordError` for a password that nobody may choose.
    """
    password_hash = _chosen(database, email, password)
    with database.connection() as connection:
        _expect(table.set_password(connection, email, password_hash), email)
        _log(connection, email, "got a password from somebody else")


def choose_password(database: Database, person: Person, password: str) -> bool:
    """Change one's own password, which verifies the account; False if it was changed since `person` was read.

    Raises `PasswordError` for a password that nobody may choose, the present one included.
    """
    password_hash = _chosen(database, person.email, password)
    with database.connection() as connection:
        is_chosen = table.choose_password(connection, person.id, password_hash, person.password_changed_at)
    if is_chosen:
        _audit.info("user %s has chosen a password", person.id)
    return is_chosen


def deactivate(database: Database, email: str) -> int:
    """Close an account, at once: its sessions and links end, its keys are revoked. Returns how many keys.

    Raises `ConfigError` if there is no such user, or it is the last super admin.
    """
    with database.connection() as connection:
        _expect_not_last(connection, email)
        user = table.deactivate(connection, email)
        if user is None:
            raise _nobody(email)
        revoked = api_keys.revoke_all_of_user(connection, user)
    _audit.info("user %s was deactivated, with %s keys", user, revoked)
    return revoked


def delete(database: Database, email: str) -> Deleted:
    """Delete an account: its sessions end, its keys and judgements are deleted with it. Returns how many.

    Raises `ConfigError` if there is no such user, or it is the last super admin.
    """
    with database.connection() as connection:
        user = _expect_not_last(connection, email)
        deleted = table.delete(connection, user.id)
    _audit.info("user %s was deleted", user.id)
    return deleted


def unlock(database: Database, email: str) -> Opened:
    """Open an account that was locked or deactivated; return which. Raises `ConfigError` if there is no such user."""
    with database.connection() as connection:
        opened = table.unlock(connection, email)
        if opened is None:
            raise _nobody(email)
        _log(connection, email, f"was {opened}")
    return opened


def _log(connection: Connection, email: str, what: str) -> None:
    user = table.by_email(connection, email)
    assert user is not None
    _audit.info("user %s %s", user.id, what)


def _chosen(database: Database, email: str, password: str) -> str:
    """Return the hash of another password for an account."""
    with database.connection() as connection:
        account = table.for_login(connection, email)
    return passwords.chosen(password, email, account.password_hash if account else None)


def _expect_not_last(connection: Connection, email: str) -> User:
    """Return a user whom others who may do everything would outlast. Raises `ConfigError` for the last super admin.

    Until the transaction ends, no other one stops being one.
    """
    super_admins = table.lock_super_admins(connection)
    user = table.by_email(connection, email)
    if user is None:
        raise _nobody(email)
    if user.role == "super_admin" and not super_admins - {user.id}:
        raise ConfigError(
            f"{user.email} is the last super_admin: make somebody else one first (`rag-pipeline users set-role`)"
        )
    return user


def _expect_role(role: str) -> None:
    if role not in permissions.ROLES:
        raise ConfigError(f"{role!r} is not a role: choose one of {', '.join(permissions.ROLES)}")


def _expect(found: bool, email: str) -> None:
    if not found:
        raise _nobody(email)


def _nobody(email: str) -> ConfigError:
    return ConfigError(f"no user {email}: `rag-pipeline users list` shows them")
