"""Passwords: hashed by Argon2id, with the parameters that RFC 9106 recommends where memory is limited."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, _LONGEST = 12, 1024
"""OWASP ASVS 4.0, 2.1.1 and 2.1.2: at least 12 characters, and an end to what has to be hashed."""


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher, profiles

    return PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)


def hashed(password: str) -> str:
    """Return the hash to store, with its parameters and salt. Raises `ConfigError` for a password of another length."""
    if not SHORTEST <= len(password) <= _LONGEST:
        raise ConfigError(f"a password has {SHORTEST} to {_LONGEST} characters: choose another one")
    return _hasher().hash(password)


def matches(stored: str, password: str) -> bool:
    """Whether a password is the one whose hash is stored."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(stored, password[:_LONGEST])
    except (VerificationError, InvalidHashError):
        return False


def is_outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than today's, so that the next login makes it anew."""
    return _hasher().check_needs_rehash(stored)
