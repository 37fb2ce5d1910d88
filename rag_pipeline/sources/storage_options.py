"""The `storage_options` of a source: secrets enter them from the environment and never leave them.

Options are the nested mappings, lists and scalars of YAML; `${VARIABLE}` stands for the value of an environment
variable. These variables are read here, not through `settings`, and only while a source is being opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ONLY_VARIABLES = re.compile(r"(\$\{[A-Za-z_][A-Za-z0-9_]*\})+")
_SECRET_KEY = re.compile(r"secret|token|passw|passphrase|credential|signature|sas|connection_string|key$", re.I)
_PASSWORD_IN_URL = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


def has_password(url: str) -> bool:
    """Return whether a URL contains a password, as in `sftp://user:password@host/`."""
    return bool(_PASSWORD_IN_URL.search(url))


def expanded(options: Any) -> Any:
    """Return the options with the value of each `${VARIABLE}`. Raises `KeyError` with the name of an unset one."""
    if isinstance(options, Mapping):
        return {key: expanded(value) for key, value in options.items()}
    if isinstance(options, list):
        return [expanded(value) for value in options]
    if isinstance(options, str):
        return _VARIABLE.sub(lambda match: os.environ[match[1]], options)
    return options


def masked(options: Any, key: str = "") -> Any:
    """Return the options in JSON types, safe to show: variables by name, other secrets as `***`."""
    if isinstance(options, Mapping):
        return {str(inner): masked(value, str(inner)) for inner, value in options.items()}
    if isinstance(options, list):
        return [masked(value, key) for value in options]
    if isinstance(options, bool | None) or (isinstance(options, str) and _ONLY_VARIABLES.fullmatch(options)):
        return options
    if _SECRET_KEY.search(key):
        return "***"
    return options if isinstance(options, int | float) else _PASSWORD_IN_URL.sub(r"\1:***@", str(options))


def redacted(text: str, options: Any) -> str:
    """Return a text, such as the error of a file system, without the secrets of the options and of URLs."""
    # The longest first: replacing a secret inside another must not leave the rest of that one behind.
    for secret in sorted(_secrets(options), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD_IN_URL.sub(r"\1:***@", text)


def _secrets(options: Any, key: str = "") -> set[str]:
    if isinstance(options, Mapping):
        return {secret for inner, value in options.items() for secret in _secrets(value, str(inner))}
    if isinstance(options, list):
        return {secret for value in options for secret in _secrets(value, key)}
    if not isinstance(options, str):
        return set()
    found = {os.environ.get(name, "") for name in _VARIABLE.findall(options)}
    if _SECRET_KEY.search(key):
        found.add(options)
    return found - {""}
