"""Logins with a password. What is wrong with one is neither said nor told by the time that it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.accounts import passwords
from rag_pipeline.stores.postgres import users

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Database

_audit = logging.getLogger("rag_pipeline.audit")

FREE_ATTEMPTS = 5
"""Wrong passwords in a row before the account is locked: for a minute, then two, four, … with each further one."""
_LONGEST_MINUTES = 60


def log_in(
    database: Database, email: str, password: str, is_known: Callable[[UUID], bool] = lambda user: False
) -> UUID | None:
    """Return the id of the user whose password this is; None if it is not, or the account is locked or closed.

    `is_known` tells whether a user has logged in from there before: strangers who lock the account lock it for
    strangers only.
    """
    with database.connection() as connection:
        account = users.for_login(connection, email)
    is_right = passwords.matches(account.password_hash if account else nobodys_hash(), password)
    if account is None or not account.is_active:
        _audit.info("login failed: no active account")
        return None
    if account.is_locked and not is_known(account.id):
        _audit.info("login refused: user %s is locked", account.id)
        return None
    with database.connection() as connection:
        if not is_right:
            users.count_failed_login(connection, account.id, FREE_ATTEMPTS, _LONGEST_MINUTES)
            _audit.info("login failed: wrong password of user %s", account.id)
            return None
        new_hash = passwords.hashed(password) if passwords.is_outdated(account.password_hash) else None
        users.record_login(connection, account.id, new_hash)
    _audit.info("login of user %s", account.id)
    return account.id


@cache
def nobodys_hash() -> str:
    """Return a hash that takes as long to compare with as anybody's. Making it takes as long again, once."""
    return passwords.hashed("nobody has this password")
