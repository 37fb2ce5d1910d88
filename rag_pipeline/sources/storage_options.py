"""The `storage_options` of a source: secrets enter them from the environment and never leave them.

Options are the nested mappings, lists and scalars of YAML; `${VARIABLE}` stands for the value of an environment
variable. These variables are read here, not through `settings`, and only while a source is being opened.

Every file system has its own options, and any of them can hold a secret. So a value written in the file is a secret
unless its key is known to hold none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from rag_pipeline.urls import has_password, mask_url

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ONLY_VARIABLES = re.compile(r"(\$\{[A-Za-z_][A-Za-z0-9_]*\})+")

_HARMLESS = frozenset(
    (
        *("region", "region_name", "endpoint", "endpoint_url", "host", "hostname", "port", "protocol", "location"),
        *("account_name", "project", "org", "repo", "ref", "branch", "user", "username", "default_bucket"),
        *(
            "timeout",
            "connect_timeout",
            "read_timeout",
            "banner_timeout",
            "retries",
            "max_retries",
            "max_attempts",
        ),
        *(
            "block_size",
            "blocksize",
            "default_block_size",
            "cache_type",
            "max_concurrency",
            "max_pool_connections",
        ),
        *(
            "consistency",
            "encoding",
            "listings_expiry_time",
            "max_paths",
            "skip_instance_cache",
            "signature_version",
        ),
        *("addressing_style", "target_protocol", "remote_protocol", "compression", "mode"),
    )
)
"""Keys whose values are shown, at any depth; of a URL, without its password and query."""

_WORD_LENGTH = 6
"""A shorter secret is only replaced where it is a word: replacing `r` everywhere would leave no text to read."""


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
    """Return the options in JSON types, safe to show: variables by name, `***` for values that can be secrets."""
    if isinstance(options, Mapping):
        return {str(inner): masked(value, str(inner)) for inner, value in options.items()}
    if isinstance(options, list):
        return [masked(value, key) for value in options]
    if _can_be_secret(options, key):
        return "***"
    return options if isinstance(options, int | float | None) else re.sub(r"\?.*", "?***", mask_url(str(options)))


def redacted(text: str, options: Any) -> str:
    """Return a text, such as the error of a file system, without the secrets of the options and of URLs."""
    # The longest first: replacing a secret inside another must not leave the rest of that one behind.
    for secret in sorted(set(_secrets(options)), key=len, reverse=True):
        exact = re.escape(secret)
        text = re.sub(exact if len(secret) >= _WORD_LENGTH else rf"(?<!\w){exact}(?!\w)", "***", text)
    return mask_url(text)


def _can_be_secret(value: Any, key: str) -> bool:
    if isinstance(value, bool | None) or (isinstance(value, str) and _ONLY_VARIABLES.fullmatch(value)):
        return False
    # `user:password@host` without a scheme is not recognised as a URL.
    return key.lower() not in _HARMLESS or ("@" in str(value) and "://" not in str(value))


def _secrets(options: Any, key: str = "") -> Iterator[str]:
    """Yield the values of variables, the literals that can be secrets and the passwords in URLs, each also as it is
    written in a URL.
    """
    if isinstance(options, Mapping):
        for inner, value in options.items():
            yield from _secrets(value, str(inner))
    elif isinstance(options, list):
        for value in options:
            yield from _secrets(value, key)
    else:
        text = str(options)
        values = {name: os.environ.get(name, "") for name in _VARIABLE.findall(text)}
        found = list(values.values())
        if _can_be_secret(options, key):
            whole = _VARIABLE.sub(lambda match: values[match[1]], text)
            found += [whole, *whole.split()]  # `Bearer …` is also quoted without its first word
        elif has_password(text):
            user_info = text.partition("://")[2].rpartition("@")[0]
            found.append(user_info.partition(":")[2])
        for secret in found:
            if secret:
                yield secret
                yield quote(secret, safe="")
