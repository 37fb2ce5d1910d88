"""The keys that a month's partition holds, read in ranges of chunk ids.

Keys begin with their chunk's id, so a range of ids is the same range in both stores, and no key of whatever form is
outside of all ranges. Ranges, not pages: only a query iterator has its rows in key order on every server, and on
Lite that takes minutes where ranges take seconds. Strongly consistent: what was written and confirmed is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.errors import RagError
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.stores.milvus.client import Milvus

MOST_ROWS = 16_384
"""The most rows of one answer of a real server."""
_AIM = 8192
_KEYS_PER_REQUEST = 1000
_END = 2**128


@dataclass(frozen=True)
class Range:
    """Chunk ids from `low` on and before `high`, as 128-bit numbers; 0 and 2**128 stand for no bound."""

    low: int = 0
    high: int = _END

    @property
    def first(self) -> UUID | None:
        """The first id inside; None: no bound."""
        return UUID(int=self.low) if self.low else None

    @property
    def after(self) -> UUID | None:
        """The first id outside; None: no bound."""
        return UUID(int=self.high) if self.high < _END else None

    @property
    def filter(self) -> str:
        """The range of keys as Milvus writes it."""
        clauses = []
        if self.first:
            clauses.append(f'id >= "{self.first}"')
        if self.after:
            clauses.append(f'id < "{self.after}"')
        return " and ".join(clauses)

    def halves(self) -> tuple[Range, Range]:
        """Both halves; a `RagError` where a single id cannot be cut."""
        if self.high - self.low < 2:
            raise RagError(f"more than {MOST_ROWS} keys begin with {self.first}: delete those that are not ours")
        middle = (self.low + self.high) // 2
        return Range(self.low, middle), Range(middle, self.high)


def ranges(keys: int) -> list[Range]:
    """Ranges that together hold every id, so many that each has a fair number of `keys`: chunk ids are random."""
    count = max(1, -(-keys // _AIM))
    bounds = [_END * n // count for n in range(count + 1)]
    return [Range(low, high) for low, high in pairwise(bounds)]


def has_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Whether there is such a collection, with this month's partition."""
    with milvus.client() as client:
        return client.has_collection(collection, timeout=TIMEOUT_SECONDS) and client.has_partition(
            collection, month.milvus_partition, timeout=TIMEOUT_SECONDS
        )


def is_loaded(milvus: Milvus, collection: str) -> bool:
    """Whether the collection can be read."""
    with milvus.client() as client:
        return client.get_load_state(collection, timeout=TIMEOUT_SECONDS)["state"].name == "Loaded"


def read(milvus: Milvus, collection: str, month: Month, within: Range) -> Iterator[tuple[Range, set[str]]]:
    """The keys of a partition within a range, in parts where they are too many for one answer.

    The partition has to be there: a real server refuses to read one that is not.
    """
    with milvus.client() as client:
        rows = client.query(
            collection,
            filter=within.filter,
            output_fields=["id"],
            partition_names=[month.milvus_partition],
            limit=MOST_ROWS,
            consistency_level="Strong",
            timeout=TIMEOUT_SECONDS,
        )
        keys = {row["id"] for row in rows}
    if len(rows) < MOST_ROWS:
        yield within, keys
        return
    del rows, keys
    for half in within.halves():
        yield from read(milvus, collection, month, half)


def present(milvus: Milvus, collection: str, month: Month, keys: Sequence[str]) -> set[str]:
    """Those of these keys that a partition holds."""
    found: set[str] = set()
    for start in range(0, len(keys), _KEYS_PER_REQUEST):
        with milvus.client() as client:
            rows = client.get(
                collection,
                ids=list(keys[start : start + _KEYS_PER_REQUEST]),
                output_fields=["id"],
                partition_names=[month.milvus_partition],
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            )
            found.update(row["id"] for row in rows)
    return found
