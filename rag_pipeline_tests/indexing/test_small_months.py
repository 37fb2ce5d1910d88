"""Which months are run together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.indexing import small_months
from rag_pipeline.indexing.small_months import in_groups
from rag_pipeline.months import Month

MONTHS = [Month(2000 + number // 12, number % 12 + 1) for number in range(60)]


@given(st.lists(st.integers(0, 101), max_size=60))
def test_groups_have_at_least_two_months_and_no_more_than_can_be_run_together(amounts: list[int]) -> None:
    asked = dict(zip(MONTHS, amounts, strict=False))
    groups = in_groups(asked)
    together = [month for group in groups for month in group]
    assert together == [month for month in asked if month in together], "in their order, none twice"
    assert all(len(group) > 1 for group in groups)
    assert all(sum(asked[month] for month in group) <= small_months._TOGETHER for group in groups)
    assert [month for month in asked if month not in together] in ([], list(asked)[-1:]), (
        "only the last, after full ones"
    )
