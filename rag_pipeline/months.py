"""Month: one partition of everything.

A month is a Dagster partition key, a pair of UTC bounds, a partition of `documents` and `document_chunks` in
PostgreSQL, and a partition of each collection in Milvus. All translations between these are here, and nothing else.
All bounds are UTC: a bare date would move with a session's time zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT = re.compile(r"^([0-9]{4})-([0-9]{2})(?:-01)?$")


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month in UTC."""

    year: int
    month: int

    def __post_init__(self) -> None:
        if not (1 <= self.year <= 9998 and 1 <= self.month <= 12):
            raise ConfigError(f"{self.year:04d}-{self.month:02d} is not a month: write it as YYYY-MM")

    @classmethod
    def parse(cls, text: str) -> Month:
        """Return the month written as `2024-01`, or as its Dagster partition key, `2024-01-01`."""
        match = _TEXT.match(text.strip())
        if not match:
            raise ConfigError(f"{text!r} is not a month: write it as YYYY-MM, such as 2024-01")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """Return the month that contains a moment. A moment without an offset is an error, not a guess."""
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone")
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    @classmethod
    def now(cls) -> Month:
        """Return the current month."""
        return cls.of(datetime.now(UTC))

    @property
    def start(self) -> datetime:
        """The first moment of the month, inclusive, in UTC."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment after the month, exclusive, in UTC."""
        return self.next().start

    @property
    def partition_key(self) -> str:
        """The key of this month in Dagster, as its monthly partitions definition writes it."""
        return f"{self.year:04d}-{self.month:02d}-01"

    @property
    def milvus_partition(self) -> str:
        """The name of this month's partition in each Milvus collection (letters, digits and underscores)."""
        return f"m_{self.year:04d}_{self.month:02d}"

    def postgres_partition(self, table: str) -> str:
        """Return the name of this month's partition of a PostgreSQL table, such as `documents_2024_01`."""
        return f"{table}_{self.year:04d}_{self.month:02d}"

    @classmethod
    def from_milvus_partition(cls, name: str) -> Month | None:
        """Return the month of a Milvus partition; None if the name is not one of ours."""
        match = re.match(r"^m_(?!0000|9999)([0-9]{4})_(0[1-9]|1[0-2])$", name)
        return cls(int(match[1]), int(match[2])) if match else None

    def next(self) -> Month:
        """Return the month after this one."""
        return Month(self.year + 1, 1) if self.month == 12 else Month(self.year, self.month + 1)

    def earlier(self, count: int) -> Month:
        """Return the month `count` months before this one."""
        year, month = divmod(self.year * 12 + self.month - 1 - count, 12)
        return Month(year, month + 1)

    def until(self, last: Month) -> Iterator[Month]:
        """Yield this month and the following ones, up to and including `last`."""
        month = self
        while month <= last:
            yield month
            month = month.next()

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


def clamp(moment: datetime, first: Month, now: datetime | None = None) -> datetime:
    """Return the moment that decides a document's month: not before the first month, not after now.

    A source can date a document 1970 or 2099; some partition has to hold it all the same.
    """
    now = now or datetime.now(UTC)
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return min(max(moment.astimezone(UTC), first.start), now)
