from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.errors import ConfigError
from rag_pipeline.search import Filters, Hit, SearchResult

moments = st.datetimes(timezones=st.just(UTC))


@given(st.dates(max_value=date(9999, 12, 30)), moments)
def test_a_date_means_its_whole_day_in_utc(day, moment):
    filters = Filters(from_date=day, to_date=day)
    assert filters.since is not None
    assert filters.until is not None
    assert (filters.since <= moment < filters.until) == (moment.date() == day)


@given(moments, moments)
def test_moments_are_inclusive_at_both_ends(one, other):
    first, last = min(one, other), max(one, other)
    filters = Filters(from_date=first, to_date=last)
    assert filters.since == first
    assert filters.until is None or last < filters.until
    if first < last:
        with pytest.raises(ConfigError, match="swap them"):
            Filters(from_date=last, to_date=first)


def test_a_moment_in_another_time_zone_is_the_same_moment():
    tokyo = timezone(timedelta(hours=9))
    assert Filters(from_date=datetime(2024, 1, 1, tzinfo=tokyo)).since == datetime(2023, 12, 31, 15, tzinfo=UTC)


@pytest.mark.parametrize("edge", [date.min, date.max, datetime.max.replace(tzinfo=timezone(-timedelta(hours=9)))])
def test_the_first_and_last_dates_of_the_calendar_are_valid(edge):
    Filters(from_date=edge)
    Filters(to_date=edge)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"language": "japanese"}, "'japanese' is not a language code"),
        ({"language": "JA"}, "two lower-case letters"),
        ({"language": 'j"'}, "is not a language code"),
        ({"language": "ja\n"}, "is not a language code"),
        ({"source_type": ""}, "is not a source type"),
        ({"source_type": "a\0b"}, "is not a source type"),
        ({"source_type": "\ud800"}, "is not a source type"),
        ({"source_type": "x" * 51}, "is not a source type"),
        ({"from_date": date(2024, 2, 1), "to_date": date(2024, 1, 31)}, "swap them"),
        ({"from_date": datetime(2024, 2, 1)}, "has no time zone"),  # noqa: DTZ001
    ],
)
def test_impossible_filters_are_rejected_in_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Filters(**wrong)
    assert "\n" not in str(raised.value)


def test_json_has_exactly_the_documented_keys():
    hit = Hit(
        document_created_at=datetime(2024, 2, 15, tzinfo=UTC),
        document_id=UUID(int=1),
        source_type="filesystem",
        source_id="docs/a.md",
        source_url=None,
        title="手引き",
        language="ja",
        chunk_id=UUID(int=2),
        position=3,
        section_title="序",
        content="本文",
        score=1.23456789,
        scores={"dense": 0.5, "sparse": None, "multi": None},
    )
    found = SearchResult([hit], {"embed": 0.25, "rank": 0.5}).as_json()
    assert found["seconds"] == 0.75
    assert list(found["hits"][0]) == [
        *("document_id", "source_type", "source_id", "source_url", "title", "language", "chunk_id"),
        *("position", "section_title", "content", "score", "scores"),
        *("category", "tags", "author", "section_path", "created_at", "source"),
    ]
    assert found["hits"][0]["created_at"] == "2024-02-15T00:00:00+00:00"
    assert found["hits"][0]["chunk_id"] == "00000000-0000-0000-0000-000000000002"
    assert found["hits"][0]["scores"] == {"dense": 0.5, "sparse": None, "multi": None}
