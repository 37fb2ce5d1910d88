"""Passwords: which ones somebody may choose, and their hashes.

They are hashed by Argon2id, with the parameters that RFC 9106 recommends where memory is limited.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, _LONGEST = 12, 1024
"""OWASP ASVS 4.0, 2.1.1 and 2.1.2: at least 12 characters, and an end to what has to be hashed."""
_DIFFERENT = 5
_SHORTEST_NAME = 4
"""Of what is before the @ of an address: shorter ones are in too many words."""

Reason = Literal["length", "present", "address", "alike", "known"]
_REASONS: Mapping[Reason, str] = {
    "length": f"a password has {SHORTEST} to {_LONGEST} characters: choose another one",
    "present": "this is the present password, which somebody else may know: choose another one",
    "address": "a password must not contain the address of its account, or what is before the @: choose another one",
    "alike": f"a password has at least {_DIFFERENT} different characters: choose another one",
    "known": "this password is one of the first that others try: choose one that has more than common words, rows of keys and signs",
}

_FEWEST_GUESSES = 10**9
"""A password that takes fewer, as zxcvbn estimates, is known; its score 3, "safely unguessable", begins at a tenth of that."""
_ESTIMATED = 72
"""Of longer passwords the beginning is estimated, since that takes the square of the length."""
_OURS = ("rag", "pipeline", "ragpipeline", "rag-pipeline", "パスワード", "ぱすわーど", "pasuwado")
"""Words that zxcvbn does not have and somebody who guesses a password for this would try."""
_SHIFTED = tuple(str.maketrans(signs, "1234567890"[: len(signs)]) for signs in ("!@#$%^&*()", "!\"#$%&'()"))
"""What the keys of digits give with Shift, on an American and on a Japanese keyboard."""


class PasswordError(ConfigError):
    """A password that nobody may choose for an account, and the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_REASONS[reason])
        self.reason = reason


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher, profiles

    return PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)


def hashed(password: str) -> str:
    """Return the hash to store, with its parameters and salt. Raises `PasswordError` for a password of another length."""
    _expect_length(password)
    return _hasher().hash(password)


def chosen(password: str, email: str, present: str | None = None) -> str:
    """Return the hash of a password that is chosen for an account; `present` is the hash that it has.

    Raises `PasswordError` for one that is too easy to guess (OWASP ASVS 4.0, 2.1.7), or the present one.
    """
    _expect_length(password)
    folded, address = (unicodedata.normalize("NFKC", text).casefold() for text in (password, email))
    name = re.split("[@+]", address)[0]
    if address in folded or (len(name) >= _SHORTEST_NAME and name in folded):
        raise PasswordError("address")
    if len(set(folded)) < _DIFFERENT:
        raise PasswordError("alike")
    if any(_guesses(text, email) < _FEWEST_GUESSES for text in _readings(folded)):
        raise PasswordError("known")
    if present is not None and matches(present, password):
        raise PasswordError("present")
    return hashed(password)


def _expect_length(password: str) -> None:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise PasswordError("length")


def _readings(folded: str) -> set[str]:
    """Return a password as it is, without signs, and with them as the digits of their keys.

    @ and $ stay, since they can be letters. Of a password of signs alone nothing is left.
    """
    texts = (folded, *(folded.translate(row) for row in _SHIFTED))
    return {folded, *filter(None, (re.sub(r"[^\w@$]|_", "", text) for text in texts))}


def _guesses(text: str, email: str) -> float:
    """Estimate how many guesses a text takes, by common passwords and names, words, dates, repetitions and keyboards.

    Wheeler: zxcvbn: Low-Budget Password Strength Estimation, USENIX Security 2016.
    """
    from zxcvbn import zxcvbn

    known = [*_OURS, *re.split(r"\W", email.casefold())]
    return float(zxcvbn(text[:_ESTIMATED], user_inputs=known)["guesses"])


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
