"""Passwords: which ones somebody may choose, and their hashes.

They are hashed by Argon2id, with the parameters that RFC 9106 recommends where memory is limited.
"""

from __future__ import annotations

import re
import unicodedata
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
    "known": "this password is one of the first that others try: choose one that has more than common words, rows of keys and signs",
}

_ROWS = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_COLUMNS = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "147258369", "789456123")
"""Of a keyboard, and of its block of digits."""
_SEQUENCES = tuple(turned for sequence in (*_ROWS, *_COLUMNS) for turned in (sequence * 2, sequence[::-1] * 2))
_SHORTEST_RUN = 3
_WORDS = """
1q2w3e4r5t6y7u8i 1q2w3e4r5t6y 1q2w3e4r5t 1q2w3e4r q1w2e3r4t5y6 q1w2e3r4 qazwsxedc qazwsx passwords password passwort
passphrase passcode motdepasse contrasena senha pass pwd パスワード ぱすわーど pasuwado administrator admin root users user
login guest master default secret testing test temporary temp demo welcome letmein changeme changeit change hello
goodbye iloveyou love sunshine princess dragon monkey football baseball superman batman starwars pokemon naruto
doraemon sakura trustno shadow michael jordan charlie daniel whatever freedom computer internet google microsoft
windows database postgres server company nippon japan tokyo osaka kyoto spring summer autumn winter january february
monday friday sunday liverpool arsenal chelsea barcelona jessica jennifer ashley thomas robert andrew matthew joshua
nicole hannah secure killer cookie flower purple ginger pepper soccer hockey pikachu correcthorsebatterystaple
ragpipeline rag search my the your our new is me one for and in to
"""
_LOOKALIKES = {"a": "a@4", "e": "e3", "i": "i1", "o": "o0", "s": "s$5", "t": "t7"}
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
    if any(_is_made_of_known(text) for text in _readings(folded)):
        raise PasswordError("known")
    if present is not None and matches(present, password):
        raise PasswordError("present")
    return hashed(password)


def _expect_length(password: str) -> None:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise PasswordError("length")


def _readings(folded: str) -> Iterator[str]:
    """Yield what a password is without signs, or with them as the digits of their keys, each with and without digits.

    @ and $ stay, since they can be letters. Of a password of signs alone nothing is left.
    """
    for text in (folded, *(folded.translate(row) for row in _SHIFTED)):
        kept = re.sub(r"[^\w@$]|_", "", text)
        yield kept
        yield re.sub("[0-9@$]", "", kept) or kept


@cache
def _known() -> tuple[re.Pattern[str], ...]:
    """The known words, with what can stand for their letters."""
    return tuple(
        re.compile("".join(f"[{_LOOKALIKES.get(letter, letter)}]" for letter in word)) for word in _WORDS.split()
    )


def _is_made_of_known(text: str) -> bool:
    """Whether a text is nothing but known words and runs, such as `abcd` and `4321`, with digits and signs around words."""
    between = re.compile("[0-9@$]" if any(letter.isalpha() for letter in text) else "[@$]")
    ends = {0}
    for start in range(len(text)):
        if start in ends:
            if between.match(text, start):
                ends.add(start + 1)
            ends |= {found.end() for word in _known() if (found := word.match(text, start))}
            end = start + _SHORTEST_RUN
            while end <= len(text) and any(text[start:end] in sequence for sequence in _SEQUENCES):
                ends.add(end)
                end += 1
    return len(text) in ends


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
