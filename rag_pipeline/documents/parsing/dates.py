"""Parsing of dates as documents write them, to aware datetimes in UTC."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

_NUMERIC = re.compile(
    r"""
    (?P<year>\d{4})
    (?: \s*[-/.年]\s* (?P<month>\d{1,2})
        (?: \s*[-/.月]\s* (?P<day>\d{1,2}) )? )?
    \s*[年月日]?
    (?: \s*\([^)]{1,3}\) )?
    (?: [T\s,]\s*
        (?P<hour>\d{1,2}) [:時] (?P<minute>\d{2}) 分?
        (?: :? (?P<second>\d{2}) (?:[.,]\d+)? 秒? )? )?
    \s* (?P<zone> Z | UTC | GMT | JST | [+-]\d{1,2}(?::?\d{2})? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)

# PDF 32000-1:2008, 7.9.4: D:YYYYMMDDHHmmSSOHH'mm'
_PDF = re.compile(
    r"""
    (?:D:)? (?P<year>\d{4}) (?P<month>\d{2})? (?P<day>\d{2})? (?P<hour>\d{2})? (?P<minute>\d{2})? (?P<second>\d{2})?
    (?P<zone> Z | [+-]\d{2} (?:'?\d{2})? )? .{0,6}
    """,
    re.VERBOSE,
)

_WRITTEN_OUT = ("%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%B %d %Y", "%b. %d, %Y")


def parse_date(text: str | None) -> datetime | None:
    """Return the UTC datetime of a text that is a date; None for any other text.

    Accepts ISO 8601 and its looser forms in YAML, `2024/1/5`, `2024年1月5日 10:30`, RFC 2822 and `January 5, 2024`. A
    date means its first moment, a year or month its first day. A time without a zone is taken as UTC.
    """
    text = unicodedata.normalize("NFKC", text or "").strip()
    if not 4 <= len(text) <= 100:
        return None
    match = _NUMERIC.fullmatch(text)
    if match:
        return _moment(match)
    for parser in (datetime.fromisoformat, parsedate_to_datetime, *map(_with_format, _WRITTEN_OUT)):
        try:
            return _in_utc(parser(text))
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def parse_pdf_date(text: str | None) -> datetime | None:
    """Return the UTC datetime of a PDF date string such as `D:20240105093000+09'00'`; None for any other text."""
    match = _PDF.fullmatch((text or "").strip())
    return _moment(match) if match else parse_date(text)


def _moment(match: re.Match[str]) -> datetime | None:
    month, day, hour, minute, second = (
        int(match[name] or least)
        for name, least in (("month", 1), ("day", 1), ("hour", 0), ("minute", 0), ("second", 0))
    )
    try:
        return _in_utc(datetime(int(match["year"]), month, day, hour, minute, second, tzinfo=_zone(match["zone"])))
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> timezone:
    if not text or text.upper() in ("Z", "UTC", "GMT"):
        return UTC
    if text.upper() == "JST":
        return timezone(timedelta(hours=9))
    digits = re.sub(r"\D", "", text)
    hours, minutes = (int(digits), 0) if len(digits) <= 2 else (int(digits[:-2]), int(digits[-2:]))
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text.startswith("-") else offset)


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _with_format(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)  # noqa: DTZ007
