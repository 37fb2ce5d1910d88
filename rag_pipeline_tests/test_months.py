"""Months: the same month in Dagster, PostgreSQL and Milvus, whatever the time zone."""

from datetime import UTC, datetime, timedelta, timezone

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month, clamp

months = st.builds(Month, st.integers(1970, 2100), st.integers(1, 12))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=offsets)  # noqa: DTZ001


@given(moments)
def test_a_moment_lies_in_its_month_whatever_its_offset(moment: datetime) -> None:
    month = Month.of(moment)
    assert moment in month
    assert month.start <= moment < month.end


@given(moments, offsets)
def test_the_month_does_not_depend_on_how_the_moment_is_written(moment: datetime, offset: timezone) -> None:
    assert Month.of(moment) == Month.of(moment.astimezone(offset))


@given(months)
def test_every_name_of_a_month_leads_back_to_it(month: Month) -> None:
    assert Month.parse(str(month)) == month
    assert Month.parse(month.partition_key) == month
    assert Month.from_milvus_partition(month.milvus_partition) == month


@given(months)
def test_months_follow_each_other_without_a_gap(month: Month) -> None:
    assert month.end == month.next().start
    assert list(month.until(month.next())) == [month, month.next()]
    assert month.end - timedelta(microseconds=1) in month
    assert month.end not in month


@given(st.builds(Month, st.integers(2000, 2026), st.integers(1, 12)))
def test_dagster_has_the_same_bounds(month: Month) -> None:
    definition = dg.MonthlyPartitionsDefinition(start_date="2000-01-01", timezone="UTC")
    window = definition.time_window_for_partition_key(month.partition_key)
    assert window.start.timestamp() == month.start.timestamp()
    assert window.end.timestamp() == month.end.timestamp()


def test_midnight_in_tokyo_belongs_to_the_month_before_in_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert Month.of(datetime(2024, 3, 1, 8, 59, 59, tzinfo=tokyo)) == Month(2024, 2)
    assert Month.of(datetime(2024, 3, 1, 9, 0, tzinfo=tokyo)) == Month(2024, 3)


@given(moments, months)
def test_clamped_moments_are_neither_before_the_first_month_nor_after_now(moment: datetime, first: Month) -> None:
    now = datetime(2101, 1, 1, tzinfo=UTC)
    clamped = clamp(moment, first, now)
    assert first.start <= clamped <= now
    if first.start <= moment <= now:
        assert clamped == moment


@pytest.mark.parametrize("text", ["2024", "2024-13", "2024-00", "24-01", "2024-01-02", "", "2024-1", "０００1-01"])
def test_what_is_not_a_month_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="YYYY-MM"):
        Month.parse(text)


def test_a_moment_without_a_time_zone_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Month.of(datetime(2024, 1, 1))  # noqa: DTZ001


@given(months, st.integers(0, 600))
def test_earlier_counts_months_back(month: Month, count: int) -> None:
    before = month.earlier(count)
    assert sum(1 for _ in before.until(month)) == count + 1
