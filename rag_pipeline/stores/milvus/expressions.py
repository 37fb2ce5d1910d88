"""Parts of Milvus' filter expressions. pymilvus quotes the keys that it is given without escaping them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def quoted(text: str) -> str:
    """Return a text as a string literal. What need not be escaped is not: Lite knows few escapes."""
    return f'"{text.translate(_ESCAPES)}"'


KEYS_PER_FILTER = 1000


def has_key(keys: Iterable[str]) -> str:
    """Return the filter for the rows with one of these keys, whatever somebody else has written into them."""
    return f"id in [{', '.join(map(quoted, keys))}]"


def in_parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the keys in parts that one filter holds."""
    for start in range(0, len(keys), KEYS_PER_FILTER):
        yield keys[start : start + KEYS_PER_FILTER]
