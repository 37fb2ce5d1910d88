"""URLs of servers, as they may be shown: nothing here connects to anything."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^/?#@:\s]*:)[^/?#\s]*(@)")
# `/`, `?` or `#` in it were not encoded: no client takes such a URL, but its error may be shown
_ODD_PASSWORD = re.compile(r"(://[^/?#@:\s]*:)(?!\*\*\*@)\S*(@)")
_PARAMETER = re.compile(
    r"\b(password|passwd|sslpassword|token|api_key)(\s*=\s*)('[^']*'|[^&\s,;]+)", re.IGNORECASE
)


def mask_url(url: str) -> str:
    """`url`, or any text with URLs in it, with each password replaced by `***`, to be shown or logged.

    Knows passwords before the host, also where `/`, `?` or `#` in them were not encoded, and `password=` or
    `token=` as a parameter or in a libpq connection string.
    """
    masked = _PASSWORD.sub(r"\1***\2", url)
    masked = _ODD_PASSWORD.sub(r"\1***\2", masked)
    return _PARAMETER.sub(r"\1\2***", masked)
