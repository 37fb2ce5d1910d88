"""What is in a source and is no item of it, counted by kind, so that nobody wonders why it is not found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

LINKS_TO_OUTSIDE = "links to outside"
LINKS_TO_NOWHERE = "links to nowhere"

_KINDS = 50
_SHOWN = 10
_EXTENSION = re.compile(r"\.\w{1,12}")
_OTHER = "other"


def kind_of(name: str) -> str:
    """Return the kind of a file that no pattern includes: its extension, such as `.csv`."""
    extension = os.path.splitext(name)[1].lower()
    if not extension:
        return "without extension"
    return extension if _EXTENSION.fullmatch(extension) else _OTHER


def count(counts: dict[str, int], kind: str, number: int = 1) -> None:
    """Add to the count of a kind. Names can be anything, so what comes after many kinds counts as another one."""
    if kind not in counts and len(counts) >= _KINDS:
        kind = _OTHER
    counts[kind] = counts.get(kind, 0) + number


def described(counts: Mapping[str, int]) -> str:
    """Return the counts, the largest first: `12 .csv, 3 .xlsx`; empty if there are none."""
    ordered = sorted(counts, key=lambda kind: (-counts[kind], kind))
    texts = [f"{counts[kind]} {_of(kind, counts[kind])}" for kind in ordered[:_SHOWN]]
    if rest := sum(counts[kind] for kind in ordered[_SHOWN:]):
        texts.append(f"{rest} more")
    return ", ".join(texts)


def _of(kind: str, number: int) -> str:
    return kind.replace("links ", "link ") if number == 1 else kind
