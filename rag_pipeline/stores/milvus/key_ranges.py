"""Reads the keys of a partition in ranges of chunk ids.

Keys begin with their chunk's id, so a range of ids is the same range in both stores, and every key, whatever its form,
is in one of the ranges. Ranges, not pages: only a query iterator returns rows in key order on every server, and on
Lite it takes minutes where ranges take seconds. Reads are strongly consistent: they see every confirmed write.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rag_pipeline.errors import RagError
from rag_pipeline.stores.milvus.client import MONTH_TIMEOUT_SECONDS, TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.expressions import has_key, in_parts
from rag_pipeline.stores.milvus.partitions import partition_exists

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rag_pipeline.months import Month
    from rag_pipeline.stores.milvus.client import Milvus

MAX_ROWS = 16_384
"""A real server returns no more rows for one query."""
_TARGET_KEYS = 8192
_END = 2**128


@dataclass(frozen=True)
class Range:
    """Chunk ids from `low` up to but not including `high`, as 128-bit numbers; 0 and 2**128 mean no bound."""

    low: int = 0
    high: int = _END

    @property
    def first(self) -> UUID | None:
        """The first id in the range; None: no bound."""
        return UUID(int=self.low) if self.low else None

    @property
    def after(self) -> UUID | None:
        """The first id after the range; None: no bound."""
        return UUID(int=self.high) if self.high < _END else None

    @property
    def filter(self) -> str:
        """The range as a Milvus filter; empty for all keys."""
        clauses = []
        if self.first:
            clauses.append(f'id >= "{self.first}"')
        if self.after:
            clauses.append(f'id < "{self.after}"')
        return " and ".join(clauses)

    def halves(self) -> tuple[Range, Range]:
        """Return both halves. Raises a `RagError` for a single id, which cannot be split."""
        if self.high - self.low < 2:
            raise RagError(
                f"more than {MAX_ROWS} keys begin with {self.first}: delete those that rag-pipeline did not write"
            )
        middle = (self.low + self.high) // 2
        return Range(self.low, middle), Range(middle, self.high)


def ranges(keys: int, each: int = _TARGET_KEYS) -> list[Range]:
    """Return ranges that cover every id, each with about `each` of `keys` keys: chunk ids are random."""
    count = max(1, -(-keys // each))
    bounds = [_END * n // count for n in range(count + 1)]
    return [Range(low, high) for low, high in pairwise(bounds)]


def has_partition(milvus: Milvus, collection: str, month: Month) -> bool:
    """Whether the collection exists and has this month's partition."""
    with milvus.client() as client:
        return partition_exists(client, collection, month.milvus_partition)


def is_loaded(milvus: Milvus, collection: str, partition: str = "") -> bool:
    """Whether the collection is loaded, or one of its partitions that exists: only then can it be read.

    A real server can release a partition of a collection that is loaded; Lite cannot.
    """
    with milvus.client() as client:
        state = client.get_load_state(collection, partition, timeout=TIMEOUT_SECONDS)["state"]
        return bool(state.name == "Loaded")


def read(milvus: Milvus, collection: str, partition: str, within: Range) -> Iterator[tuple[Range, set[str]]]:
    """Yield the keys of a partition within a range, as `read_rows` does."""
    for part, rows in read_rows(milvus, collection, partition, within, ["id"]):
        yield part, {row["id"] for row in rows}


def read_rows(
    milvus: Milvus,
    collection: str,
    partition: str,
    within: Range,
    fields: Sequence[str],
    *,
    at_once: int = MAX_ROWS,
) -> Iterator[tuple[Range, list[dict[str, Any]]]]:
    """Yield the rows of a partition within a range, split into smaller ranges if one query cannot return them all.

    One query returns fewer than `at_once` rows, unless one chunk has more: a real server refuses an answer of more than
    100 MB. The partition must exist: a real server refuses to read a missing one.
    """
    most = at_once if within.high - within.low > 1 else MAX_ROWS
    with milvus.client() as client:
        rows = [
            dict(row)
            for row in client.query(
                collection,
                filter=within.filter,
                output_fields=list(fields),
                partition_names=[partition],
                limit=most,
                consistency_level="Strong",
                timeout=MONTH_TIMEOUT_SECONDS,
            )
        ]
    if len(rows) < most:
        yield within, rows
        return
    del rows
    for half in within.halves():
        yield from read_rows(milvus, collection, partition, half, fields, at_once=at_once)


def present(milvus: Milvus, collection: str, month: Month, keys: Sequence[str]) -> set[str]:
    """Return those of these keys that a partition holds."""
    found: set[str] = set()
    for part in in_parts(keys):
        with milvus.client() as client:
            rows = client.query(
                collection,
                filter=has_key(part),
                output_fields=["id"],
                partition_names=[month.milvus_partition],
                consistency_level="Strong",
                timeout=MONTH_TIMEOUT_SECONDS,
            )
            found.update(row["id"] for row in rows)
    return found
