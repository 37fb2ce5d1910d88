"""Passwords: which ones somebody may choose, and their hashes.

They are hashed by Argon2id, with the parameters that RFC 9106 recommends where memory is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    "known": "this password is one of the first that others try: choose one that has more than common words and rows of keys",
}

_SEQUENCES = tuple(
    turned
    for sequence in ("abcdefghijklmnopqrstuvwxyz", "0123456789", "qwertyuiop", "asdfghjkl", "zxcvbnm")
    for turned in (sequence * 2, sequence[::-1] * 2)
)
_SHORTEST_RUN = 3
_WORDS = """
1q2w3e4r5t6y7u8i 1q2w3e4r5t6y 1q2w3e4r5t 1q2w3e4r q1w2e3r4t5y6 q1w2e3r4 1qaz2wsx3edc 1qaz2wsx zaq12wsx qazwsxedc
qazwsx passwords password passwort passphrase passcode motdepasse contrasena senha pass pwd パスワード ぱすわーど pasuwado
administrator admin root users user login guest master default secret testing test temporary temp demo welcome letmein
changeme changeit change hello goodbye iloveyou love sunshine princess dragon monkey football baseball superman batman
starwars pokemon naruto doraemon sakura trustno shadow michael jordan charlie daniel whatever freedom computer
internet google microsoft windows database postgres server company nippon japan tokyo osaka kyoto spring summer autumn
winter january february monday friday sunday correcthorsebatterystaple ragpipeline rag search my the your our new is
me one for and in to
"""
_KNOWN = tuple(_WORDS.split())
_SIGNS = str.maketrans({"@": "a", "$": "s"})
_DIGITS = str.maketrans("013457", "oieast")


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
    folded, address = password.casefold(), email.casefold()
    name = re.split("[@+]", address)[0]
    if address in folded or (len(name) >= _SHORTEST_NAME and name in folded):
        raise PasswordError("address")
    if len(set(folded)) < _DIFFERENT:
        raise PasswordError("alike")
    if any(_is_made_of_known(text) for text in _readings(folded)):
        raise PasswordError("known")
    if present is not None and matches(present, password):
        raise PasswordError("present")
    return hashed(password)


def _expect_length(password: str) -> None:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise PasswordError("length")


def _readings(folded: str) -> Iterator[str]:
    """Yield what a password is without what people add to a word: signs, digits, and digits in place of letters."""
    text = re.sub(r"[\W_]+", "", folded.translate(_SIGNS))
    yield text
    yield re.sub("[0-9]+", "", text)
    yield text.strip("0123456789").translate(_DIGITS)


def _is_made_of_known(text: str) -> bool:
    """Whether a text is nothing but known words and runs, such as `abcd` and `4321`."""
    ends = {0}
    for start in range(len(text)):
        if start in ends:
            ends |= {start + len(word) for word in _KNOWN if text.startswith(word, start)}
            end = start + _SHORTEST_RUN
            while end <= len(text) and any(text[start:end] in sequence for sequence in _SEQUENCES):
                ends.add(end)
                end += 1
    return bool(text) and len(text) in ends


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
