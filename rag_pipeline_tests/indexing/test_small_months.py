"""Which months are run together."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.indexing import small_months
from rag_pipeline.indexing.small_months import in_groups
from rag_pipeline.months import Month

MONTHS = [Month(2000 + number // 12, number % 12 + 1) for number in range(60)]


@given(st.lists(st.integers(0, 101), max_size=60))
def test_groups_have_no_more_than_can_be_run_together(amounts: list[int]) -> None:
    asked = dict(zip(MONTHS, amounts, strict=False))
    groups = in_groups(asked)
    assert [month for group in groups for month in group] == list(asked), "in their order, each once"
    assert all(groups), "none is empty"
    assert all(sum(asked[month] for month in group) <= small_months._TOGETHER for group in groups)
    assert all(
        sum(asked[month] for month in group) + asked[following[0]] > small_months._TOGETHER
        for group, following in pairwise(groups)
    ), "none could have taken the next month too"
