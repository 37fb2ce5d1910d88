"""URLs of servers in the form that may be shown. Nothing here connects to anything."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^/?#@:\s]*:)[^/?#\s]*(@)")
# `/`, `?` or `#` in the password is not encoded: no client accepts such a URL, but its error might be shown.
_ODD_PASSWORD = re.compile(r"(://[^/?#@:\s]*:)(?!\*\*\*@)\S*(@)")
_PARAMETER = re.compile(
    r"\b(password|passwd|sslpassword|token|api_key)(\s*=\s*)('[^']*'|[^&\s,;]+)", re.IGNORECASE
)


def mask_url(url: str) -> str:
    """Return `url`, or any text that contains URLs, with each password replaced by `***`.

    Recognises passwords before the host, even if `/`, `?` or `#` in them is not encoded, and `password=` or `token=` as
    a parameter or in a libpq connection string.
    """
    masked = _PASSWORD.sub(r"\1***\2", url)
    masked = _ODD_PASSWORD.sub(r"\1***\2", masked)
    return _PARAMETER.sub(r"\1\2***", masked)
