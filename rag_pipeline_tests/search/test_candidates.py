from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.search import Filters
from rag_pipeline.search.candidates import expression

# Milvus's expressions of literals, comparisons and `and` are also Python's.
moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, moments, st.integers(0, 1_000_000), st.sampled_from([0, 1, 2]))
def test_rounding_to_seconds_loses_no_document_in_the_range(one, other, microseconds, place):
    first, last = min(one, other), max(one, other)
    inside = [first, last, first + (last - first) * (microseconds / 1_000_000)][place]
    stored = int(inside.timestamp())  # as the write path stores it
    assert eval(expression(Filters(from_date=first, to_date=last)), {"created_timestamp": stored})


@given(moments, st.timedeltas(timedelta(seconds=2), timedelta(days=4000)))
def test_a_document_seconds_outside_the_range_does_not_match(moment, away):
    for stored in ((moment - away).timestamp(), (moment + away).timestamp()):
        assert not eval(expression(Filters(from_date=moment, to_date=moment)), {"created_timestamp": int(stored)})


@given(st.text(min_size=1, max_size=50).filter(str.isprintable))
def test_any_source_type_is_one_literal(source_type):
    parsed = ast.parse(expression(Filters(source_type=source_type)), mode="eval").body
    assert isinstance(parsed, ast.Compare)
    assert ast.literal_eval(parsed.comparators[0]) == source_type


def test_no_filters_are_an_empty_expression():
    assert expression(Filters()) == ""
