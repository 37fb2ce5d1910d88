from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.parsing.dates import parse_date, parse_pdf_date, two_meanings


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-05", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024-01-05T09:00:00+09:00", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024-01-05 09:00:00 +9", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024-01-05 10:30", datetime(2024, 1, 5, 10, 30, tzinfo=UTC)),
        ("2024-01-05T10:30:15.25Z", datetime(2024, 1, 5, 10, 30, 15, tzinfo=UTC)),
        ("2001-12-14t21:59:43.10-05:00", datetime(2001, 12, 15, 2, 59, 43, tzinfo=UTC)),
        ("2024/1/5", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024年1月5日", datetime(2024, 1, 5, tzinfo=UTC)),
        ("２０２４年１月５日（金） 10:30", datetime(2024, 1, 5, 10, 30, tzinfo=UTC)),
        ("2024年1月", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024", datetime(2024, 1, 1, tzinfo=UTC)),
        ("Fri, 05 Jan 2024 09:00:00 +0900", datetime(2024, 1, 5, tzinfo=UTC)),
        ("January 5, 2024", datetime(2024, 1, 5, tzinfo=UTC)),
        ("令和6年5月1日", datetime(2024, 5, 1, tzinfo=UTC)),
        ("令和六年五月一日", datetime(2024, 5, 1, tzinfo=UTC)),
        ("二〇二四年十二月二十三日", datetime(2024, 12, 23, tzinfo=UTC)),
        ("令和 6 年 5 月 1 日（水）午後3時5分", datetime(2024, 5, 1, 15, 5, tzinfo=UTC)),
        ("㋿元年5月", datetime(2019, 5, 1, tzinfo=UTC)),
        ("平成30年4月1日", datetime(2018, 4, 1, tzinfo=UTC)),
        ("平成元年", datetime(1989, 1, 1, tzinfo=UTC)),
        ("昭和64年1月7日", datetime(1989, 1, 7, tzinfo=UTC)),
        ("R6.5.1", datetime(2024, 5, 1, tzinfo=UTC)),
        ("H30/4/1", datetime(2018, 4, 1, tzinfo=UTC)),
        ("r6-05-01 10:30", datetime(2024, 5, 1, 10, 30, tzinfo=UTC)),
        ("平成99年1月1日", None),
        ("R6", None),
        ("3/15/2024", datetime(2024, 3, 15, tzinfo=UTC)),
        ("15.03.2024", datetime(2024, 3, 15, tzinfo=UTC)),
        ("15.03.2024 10:30", datetime(2024, 3, 15, 10, 30, tzinfo=UTC)),
        ("3/3/2024", datetime(2024, 3, 3, tzinfo=UTC)),
        ("3/4/2024", None),
        ("13/13/2024", None),
        ("2024-03-05 10:30 PM", datetime(2024, 3, 5, 22, 30, tzinfo=UTC)),
        ("2024-03-05 12:30:15 a.m.", datetime(2024, 3, 5, 0, 30, 15, tzinfo=UTC)),
        ("2024/3/5 午前10:30 JST", datetime(2024, 3, 5, 1, 30, tzinfo=UTC)),
        ("2024年3月5日午後0時", datetime(2024, 3, 5, 12, tzinfo=UTC)),
        ("2024年3月5日 9時5分7秒", datetime(2024, 3, 5, 9, 5, 7, tzinfo=UTC)),
        ("2024-03-05 15:30 PM", None),
        ("2024-02-30", None),
        ("2024-01-05T10:00+99:00", None),
        ("0001-01-01T00:00:00+09:00", None),
        ("2024-04-01 00:00 Asia/Tokyo", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024-07-01 00:00 [Europe/Berlin]", datetime(2024, 6, 30, 22, tzinfo=UTC)),
        ("2024-01-01T00:00 America/Argentina/Buenos_Aires", datetime(2024, 1, 1, 3, tzinfo=UTC)),
        ("2024-01-01 00:00 Etc/GMT-9", datetime(2023, 12, 31, 15, tzinfo=UTC)),
        ("2024-04-01T00:00:00+09:00[Asia/Tokyo]", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024-04-01T00:00:00Z[!Etc/UTC]", datetime(2024, 4, 1, tzinfo=UTC)),
        ("2024-04-01 00:00:00 (JST)", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024-04-01（JST）", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024年4月1日(月) 0時 JST", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024-04-01 00:00 UTC+9", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("2024-04-01 00:00 GMT-05:00", datetime(2024, 4, 1, 5, tzinfo=UTC)),
        ("2024-04-01 00:00 America/Argentina", None),
        ("2024-04-01 00:00 Asia/Edo", None),
        ("2024-04-01 00:00 [EST]", None),
        ("2024-04-01 00:00 EST", None),
        ("2024-04-01 00:00 IST", None),
        ("2024-04-01 00:00 (JST", None),
        ("2024-02-29 24:00", datetime(2024, 3, 1, tzinfo=UTC)),
        ("2024-12-31T24:00:00+09:00", datetime(2024, 12, 31, 15, tzinfo=UTC)),
        ("2024年2月29日24時", datetime(2024, 3, 1, tzinfo=UTC)),
        ("2024-02-29 24:01", None),
        ("9999-12-31 24:00", None),
        ("1711897200", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("1711897200000", datetime(2024, 3, 31, 15, tzinfo=UTC)),
        ("9999999999", datetime(2286, 11, 20, 17, 46, 39, tzinfo=UTC)),
        ("2024010509", None),
        ("17118972001", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(text: str | None, moment: datetime | None) -> None:
    assert parse_date(text) == moment


@pytest.mark.parametrize(
    ("text", "meanings"),
    [
        ("3/4/2024", (datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 4, 3, tzinfo=UTC))),
        (
            "３．４．２０２４ 24:00 JST",
            (datetime(2024, 3, 4, 15, tzinfo=UTC), datetime(2024, 4, 3, 15, tzinfo=UTC)),
        ),
        ("3/15/2024", None),
        ("3/4/2024 sometime", None),
        ("13/13/2024", None),
        ("3/4/0000", None),
        ("2024-03-04", None),
    ],
)
def test_dates_with_two_meanings(text: str, meanings: tuple[datetime, datetime] | None) -> None:
    assert two_meanings(text) == meanings


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("D:20240105093000+09'00'", datetime(2024, 1, 5, 0, 30, tzinfo=UTC)),
        ("D:20240105093000Z00'00'", datetime(2024, 1, 5, 9, 30, tzinfo=UTC)),
        ("D:20240105", datetime(2024, 1, 5, tzinfo=UTC)),
        ("D:20241305", None),
        ("2024-01-05T00:00:00", datetime(2024, 1, 5, tzinfo=UTC)),
        ("", None),
    ],
)
def test_pdf_dates(text: str, moment: datetime | None) -> None:
    assert parse_pdf_date(text) == moment


@given(st.datetimes(timezones=st.timezones()))
def test_dates_written_by_python_are_parsed(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:  # its offset exceeds the range of datetime
        expected = None
    parsed = parse_date(moment.isoformat(timespec="seconds"))
    assert parsed == (expected and expected.replace(microsecond=0))


@given(st.text(st.sampled_from("0123456789-/:.年月日時令和元十二RHTZ+ DPM午後'")) | st.text())
def test_any_text_is_a_utc_datetime_or_none(text: str) -> None:
    for moment in (parse_date(text), parse_pdf_date(text)):
        assert moment is None or moment.tzinfo is UTC
