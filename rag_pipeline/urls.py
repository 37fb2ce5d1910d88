"""URLs, and texts that quote them, in the form that may be shown. Nothing here connects to anything."""

from __future__ import annotations

import re

# Up to the last `@` before the next URL. `/`, `?`, `#` or a space in a password is not encoded: no client accepts such
# a URL, but its error might be shown. Digits are a port if the word ends with them or a path follows. What looks like
# the next URL is in the password if there was no `@` before it: a few times, or the work would grow with the square.
_PASSWORD = re.compile(
    r"""
    (?P<user> :// [^/?#@:\s\[]* : ) (?! \*\*\*@ )
    (?: (?: (?!://) \S )* @
      | (?! \d{1,5} (?! [^\s/?#,;.)'"] ) ) (?: (?!://) [^\n] )* @
      | (?! \d{1,5} (?! [^\s/?#,;.)'"] ) ) (?: (?!://) \S )* (?: :// (?: (?!://) \S )* ){1,8} @ )
    """,
    re.VERBOSE,
)
_PARAMETER = re.compile(
    r"""
    (?P<name> (?<! [\w-] ) [\w-]*
        (?: passw(?:or)?d | passphrase | pwd | token | secret | signature | credential | api_?key | access_?key(?:id)?
          | account_?key | secret_?key | (?<! [a-z] ) (?: sig | pat | auth ) )
        (?: \s{0,9} = | ['"] \s{0,9} : ) \s{0,9} )
    (?: '[^'\n]*'? | "[^"\n]*"? | [^&\s,;]+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HEADER = re.compile(r"\b(authorization|cookie)(['\"]?\s{0,9}[:=]\s{0,9})[^\n]*", re.IGNORECASE)
_SCHEME = re.compile(r"\b(bearer|basic)(\s{1,9})(?=[\w+/=.~-]{8})[\w+/=.~-]+", re.IGNORECASE)


def has_password(url: str) -> bool:
    """Whether a URL contains a password, as in `sftp://user:password@host/`."""
    return _PASSWORD.search(url) is not None


def mask_url(url: str) -> str:
    """Return `url`, or any text that contains URLs, with each password replaced by `***`.

    Recognises passwords before the host, even if they are not encoded; parameters of a URL or a libpq connection string
    such as `password=` or `token=`; the header `Authorization`, and credentials after `Bearer` or `Basic`.
    """
    masked = _PASSWORD.sub(r"\g<user>***@", url)
    masked = _PARAMETER.sub(r"\g<name>***", masked)
    masked = _HEADER.sub(r"\1\2***", masked)
    return _SCHEME.sub(r"\1\2***", masked)
