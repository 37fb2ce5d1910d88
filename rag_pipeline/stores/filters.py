"""The filters of a search, validated when they are made; both stores translate them into their own conditions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple

from rag_pipeline.errors import ConfigError

_LANGUAGE = re.compile(r"[a-z]{2}")
_MAX_SOURCE_TYPE = 50
_MAX_TEXT = 255


class Span(NamedTuple):
    """A range of moments in UTC, without its end; None does not restrict it."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True)
class Filters:
    """Which documents a search can find; a filter that is None does not restrict it.

    Dates refer to the document's `created_at`. Both ends are inclusive: a date means its whole day in `timezone`, and a
    datetime must have a time zone of its own. Raises `ConfigError` for a value that no document can have.
    """

    language: str | None = None
    """Two lower-case letters (ISO 639-1)."""
    source_type: str | None = None
    source: str | None = None
    """The name of a source, as in `sources.yaml`."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    """A document has all of them."""
    author: str | None = None
    from_date: date | datetime | None = None
    to_date: date | datetime | None = None
    timezone: tzinfo | None = None
    """Whose days dates are; None: UTC's. A document of a day without a time, stored as 00:00 UTC, is of that day everywhere."""

    def __post_init__(self) -> None:
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise ConfigError(
                f"language {self.language!r} is not a language code: write two lower-case letters, such as ja"
            )
        if self.source_type is not None and not (
            0 < len(self.source_type) <= _MAX_SOURCE_TYPE and self.source_type.isprintable()
        ):
            raise ConfigError(
                f"{self.source_type[:_MAX_SOURCE_TYPE]!r} is not a source type: `rag-pipeline sources` lists them"
            )
        for text in (self.source, self.category, self.author, *self.tags):
            if text is not None and (not 0 < len(text) <= _MAX_TEXT or "\0" in text):
                raise ConfigError(
                    f"the filter {text[:50]!r} is not one: write 1 to {_MAX_TEXT} characters, no NUL"
                )
        since, until = self.of_days
        if since is not None and until is not None and since >= until:
            raise ConfigError(
                f"the search's first date {self.from_date} is after its last date {self.to_date}: swap them"
            )

    @property
    def has_dates(self) -> bool:
        """Whether a date restricts the search."""
        return self.from_date is not None or self.to_date is not None

    @property
    def since(self) -> datetime | None:
        """The first moment that any document can have, inclusive, in UTC."""
        return min(filter(None, (self.of_days.since, self.of_moments.since)), default=None)

    @property
    def until(self) -> datetime | None:
        """The first moment after the range of any document, in UTC; None also if `datetime` cannot express it."""
        days, moments = self.of_days.until, self.of_moments.until
        return None if days is None or moments is None else max(days, moments)

    @property
    def of_days(self) -> Span:
        """The range for documents of a day without a time."""
        return self._span(UTC)

    @property
    def of_moments(self) -> Span:
        """The range for all other documents."""
        return self._span(self.timezone or UTC)

    def _span(self, zone: tzinfo) -> Span:
        since = None if self.from_date is None else _first_moment(self.from_date, zone)
        if self.to_date is None:
            return Span(since, None)
        try:
            if isinstance(self.to_date, datetime):
                # PostgreSQL counts in microseconds too, so nothing lies between two steps.
                return Span(since, _first_moment(self.to_date, zone) + timedelta(microseconds=1))
            return Span(since, _first_moment(self.to_date + timedelta(days=1), zone))
        except OverflowError:
            return Span(since, None)


NO_FILTERS = Filters()


def _first_moment(day: date | datetime, zone: tzinfo) -> datetime:
    if not isinstance(day, datetime):
        day = datetime(day.year, day.month, day.day, tzinfo=zone)
    if day.tzinfo is None:
        raise ConfigError(f"{day.isoformat()} has no time zone: add one, such as {day.isoformat()}+09:00")
    try:
        return day.astimezone(UTC)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if day.year == 1 else datetime.max.replace(tzinfo=UTC)
