from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.parsing.dates import parse_date, parse_pdf_date


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
        ("2024-02-30", None),
        ("2024-01-05T10:00+99:00", None),
        ("0001-01-01T00:00:00+09:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(text: str | None, moment: datetime | None) -> None:
    assert parse_date(text) == moment


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


@given(st.text(st.sampled_from("0123456789-/:.年月日TZ+ D'")) | st.text())
def test_any_text_is_a_utc_datetime_or_none(text: str) -> None:
    for moment in (parse_date(text), parse_pdf_date(text)):
        assert moment is None or moment.tzinfo is UTC
