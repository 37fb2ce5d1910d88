"""Parts of Milvus' filter expressions. pymilvus quotes the keys that it is given without escaping them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def quoted(text: str) -> str:
    """Return a text as a string literal, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def has_key(keys: Iterable[str]) -> str:
    """Return the filter for the rows with one of these keys, whatever somebody else has written into them."""
    return f"id in [{', '.join(map(quoted, keys))}]"
