"""Parsing of dates as documents write them, to aware datetimes in UTC."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

_TIME = r"""
    (?: (?: [T\s,]\s* | (?<=[日)])) (?P<half> 午前 | 午後 | [AP]M (?![A-Z]) )?\s*
        (?P<hour>\d{1,2}) (?: : (?P<minute>\d{2}) | 時 (?: (?P<minute_ja>\d{1,2}) 分?)? )
        (?: :? (?P<second>\d{1,2}) (?:[.,]\d+)? 秒? )? (?: \s* (?P<half_after> [AP]\.?M\.? (?! [A-Z_]*/ ) ) )? )?
    # Of abbreviations only those that have one meaning. After an offset, the name of its zone (RFC 9557) adds nothing.
    (?: \s* (?P<open> [(\[] )?
        (?P<zone> (?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})? | Z | UTC | GMT | JST | [A-Z][A-Z_]+ (?: /[A-Z][\w+-]+ ){1,2} )
        (?(open) [)\]] ) (?: \s* \[!? [A-Z][\w/+-]* \] )? )?
"""
_NUMERIC = re.compile(
    r"""
    (?P<year>\d{4})
    (?: \s*[-/.年]\s* (?P<month>\d{1,2})
        (?: \s*[-/.月]\s* (?P<day>\d{1,2}) )? )?
    \s*[年月日]?
    (?: \s*\( (?! JST | UTC | GMT ) [^)]{1,3}\) )?
    """
    + _TIME,
    re.VERBOSE | re.IGNORECASE,
)
_EPOCH = re.compile(r"[1-9]\d{9}(?:\d{3})?", re.ASCII)
_YEAR_LAST = re.compile(r"(?P<one>\d{1,2})(?P<mark>[./-])(?P<two>\d{1,2})(?P=mark)(?P<year>\d{4})(?!\d)")

_ERAS = {
    "明治": (1868, 1912),
    "大正": (1912, 1926),
    "昭和": (1926, 1989),
    "平成": (1989, 2019),
    "令和": (2019, 2100),
}
_ERA_LETTERS = {"M": "明治", "T": "大正", "S": "昭和", "H": "平成", "R": "令和"}
_ERA = re.compile(
    rf"""
    (?: (?P<era>{"|".join(_ERAS)}) \s* (?P<year>元|\d{{1,2}}) (?=\s*[-/.年])
    | (?P<letter>[MTSHR])\.?\s* (?P<year_after_letter>元|\d{{1,2}}) (?=\s*[-/.年]\s*\d) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_KANJI_NUMBER = re.compile(r"[〇一二三四五六七八九十]+(?=\s*[年月日時分秒])")
_KANJI_DIGITS = str.maketrans("〇一二三四五六七八九", "0123456789")

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

    Accepts ISO 8601 and its looser forms in YAML, `2024/1/5`, `2024年1月5日 午後3時`, Japanese eras (`令和6年5月1日`,
    `R6.5.1`, `平成元年`), kanji numerals, times with AM and PM, RFC 2822 and `January 5, 2024`. `15.03.2024` and
    `3/15/2024` are dates, as only one of the numbers can be a month; `3/4/2024` is not guessed. A date means its first
    moment, a year or month its first day; 24:00 is the end of a day. A zone is an offset, `Z`, UTC, GMT, JST or a name such
    as `Asia/Tokyo`, also in brackets; not EST or IST, which several zones are called. A time without a zone is taken as UTC.
    Ten digits are seconds since 1970 and thirteen milliseconds, unless they begin with a date.
    """
    text = unicodedata.normalize("NFKC", text or "").strip()
    if not 4 <= len(text) <= 100:
        return None
    if _EPOCH.fullmatch(text) and (moment := _since_1970(text)):
        return moment
    text = _year_first(_in_common_era(_KANJI_NUMBER.sub(_arabic, text)))
    match = _NUMERIC.fullmatch(text)
    if match:
        return _moment(match)
    for parser in (datetime.fromisoformat, parsedate_to_datetime, *map(_with_format, _WRITTEN_OUT)):
        try:
            return _in_utc(parser(text))
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def two_meanings(text: str) -> tuple[datetime, datetime] | None:
    """Return both moments that a date such as `3/4/2024` can mean, month first and day first; None for any other text."""
    text = unicodedata.normalize("NFKC", text).strip()
    match = _YEAR_LAST.match(text)
    if match is None or parse_date(text):
        return None
    first, second = (
        parse_date(f"{match['year']}-{match[month]}-{match[day]}{text[match.end() :]}")
        for month, day in (("one", "two"), ("two", "one"))
    )
    return (first, second) if first and second else None


def parse_pdf_date(text: str | None) -> datetime | None:
    """Return the UTC datetime of a PDF date string such as `D:20240105093000+09'00'`; None for any other text."""
    match = _PDF.fullmatch((text or "").strip())
    return _moment(match) if match else parse_date(text)


def _since_1970(text: str) -> datetime | None:
    """Return the moment of a number of seconds or milliseconds; None if it begins with a date: 2024010509."""
    with suppress(ValueError):
        datetime(int(text[:4]), int(text[4:6]), int(text[6:8]), tzinfo=UTC)
        return None
    return datetime.fromtimestamp(int(text[:10]), UTC)


def _arabic(match: re.Match[str]) -> str:
    """Return a kanji number in digits: 二〇二四, 六, 十二, 二十三."""
    tens, ten, ones = match[0].partition("十")
    if not ten:
        return match[0].translate(_KANJI_DIGITS)
    return f"{(tens or '一').translate(_KANJI_DIGITS)}{(ones or '〇').translate(_KANJI_DIGITS)}"


def _in_common_era(text: str) -> str:
    """Return a date with a year of a Japanese era, 令和6年 or R6, with that of the common era; any other as it is."""
    match = _ERA.match(text)
    if match is None:
        return text
    first, last = _ERAS[match["era"] or _ERA_LETTERS[match["letter"].upper()]]
    number = match["year"] or match["year_after_letter"]
    year = first - 1 + (1 if number == "元" else int(number))
    return f"{year}{text[match.end() :]}" if first <= year <= last else text


def _year_first(text: str) -> str:
    """Return `15.03.2024` or `3/15/2024` with the year first; `3/4/2024` as it is, since it has two meanings."""
    match = _YEAR_LAST.match(text)
    if match is None:
        return text
    one, two = int(match["one"]), int(match["two"])
    if one > 12 or one == two:
        one, two = two, one
    elif two <= 12:
        return text
    return f"{match['year']}-{one}-{two}{text[match.end() :]}"


def _moment(match: re.Match[str]) -> datetime | None:
    groups = match.groupdict()
    if groups.get("minute_ja"):
        groups["minute"] = groups["minute_ja"]
    month, day, hour, minute, second = (
        int(groups[name] or least)
        for name, least in (("month", 1), ("day", 1), ("hour", 0), ("minute", 0), ("second", 0))
    )
    half = groups.get("half") or groups.get("half_after")
    if half:
        if hour > 12:
            return None
        hour = hour % 12 + (12 if half == "午後" or half[0] in "Pp" else 0)
    end_of_day = (hour, minute, second) == (24, 0, 0)
    try:
        moment = datetime(int(match["year"]), month, day, 0 if end_of_day else hour, minute, second)  # noqa: DTZ001
        return _in_utc((moment + timedelta(days=end_of_day)).replace(tzinfo=_zone(match["zone"])))
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> tzinfo:
    """Return the zone of a text that has the form of one. Raises `ValueError` if there is none of this name."""
    if not text or text.upper() in ("Z", "UTC", "GMT"):
        return UTC
    if text.upper() == "JST":
        return timezone(timedelta(hours=9))
    if "/" in text:
        try:
            return ZoneInfo(text)
        except (LookupError, OSError):  # America/Argentina is a folder.
            raise ValueError(f"no zone is called {text}") from None
    digits = re.sub(r"\D", "", text)
    hours, minutes = (int(digits), 0) if len(digits) <= 2 else (int(digits[:-2]), int(digits[-2:]))
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if "-" in text else offset)


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _with_format(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)  # noqa: DTZ007
