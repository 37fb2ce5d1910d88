"""Profiles: the name, the time zone and the picture that a person is shown with.

A picture is loaded from elsewhere by the browser of its person, from one origin that the page's policy then allows. Its
address is therefore checked twice: before it is stored, and again before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from zoneinfo import available_timezones

from rag_pipeline.errors import ConfigError
from rag_pipeline.printable import escaped

Profile = Mapping[str, str]
"""Columns of `users` and their new values; an empty value removes what is there."""

_LONGEST_NAME, _LONGEST_AVATAR, _LONGEST_HOST = 255, 2000, 253
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_AVATAR = re.compile(
    rf"(?P<origin>https://(?P<host>(?:{_LABEL}\.)*(?=[A-Za-z]){_LABEL})(?::(?P<port>[1-9][0-9]{{0,4}}))?)"
    r"(?:/[A-Za-z0-9._~!$&()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&()*+,;=:@%/?-]*)?"
)
"""A name for a host, whose last part begins with a letter: browsers read `https://0x7f.1/` as an IP address. Without `@`
before it, so without credentials; the origin has nothing that means something in a Content-Security-Policy."""


def checked(name: str | None = None, timezone: str | None = None, avatar: str | None = None) -> Profile:
    """Return what to change of a profile: nothing where None is given. Raises `ConfigError` for a value that none can have."""
    given = {"full_name": name and name.strip(), "timezone": timezone, "avatar_url": avatar}
    profile = {column: value for column, value in given.items() if value is not None}
    name, timezone, avatar = (profile.get(column) for column in given)
    if name and (len(name) > _LONGEST_NAME or escaped(name) != name):
        raise ConfigError(
            f"{name[:40]!r} is not a name: write one line of at most {_LONGEST_NAME} characters, such as 山田花子"
        )
    if timezone and timezone not in available_timezones():
        raise ConfigError(f"{timezone!r} is not a time zone: write one such as Asia/Tokyo or Europe/Berlin")
    if avatar and avatar_origin(avatar) is None:
        raise ConfigError(
            f"{avatar!r} is not the address of a picture: write one such as https://example.com/hanako.png, without a "
            "user, quotes or spaces"
        )
    return profile


def avatar_origin(url: str) -> str | None:
    """Return the origin that a picture is loaded from, such as `https://example.com`; None if a page must not show it."""
    found = _AVATAR.fullmatch(url)
    if found is None or len(url) > _LONGEST_AVATAR or len(found["host"]) > _LONGEST_HOST:
        return None
    return found["origin"] if int(found["port"] or 443) <= 65535 else None
