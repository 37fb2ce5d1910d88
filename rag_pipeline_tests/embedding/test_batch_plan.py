from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding.batch_plan import plan

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


def cost(batches: list[list[int]], lengths: list[int], of_pass: int) -> int:
    return sum(len(batch) * max(lengths[index] for index in batch) + of_pass for batch in batches)


@given(LENGTHS, st.integers(1, 600), st.integers(0, 200))
def test_each_text_is_in_one_batch_that_fits(lengths: list[int], most: int, of_pass: int) -> None:
    batches = plan(lengths, most, of_pass)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most
    assert [lengths[index] for batch in batches for index in batch] == sorted(lengths)


@given(LENGTHS, st.integers(1, 600), st.integers(0, 200))
def test_no_other_batches_of_neighbours_cost_less(lengths: list[int], most: int, of_pass: int) -> None:
    ascending = sorted(lengths)

    @cache
    def least(count: int) -> int:
        ends = [
            least(start) + (count - start) * ascending[count - 1] + of_pass
            for start in range(count)
            if start == count - 1 or (count - start) * ascending[count - 1] <= most
        ]
        return min(ends, default=0)

    assert cost(plan(lengths, most, of_pass), lengths, of_pass) == least(len(ascending))


def test_texts_of_one_length_share_full_batches() -> None:
    assert [len(batch) for batch in plan([10] * 25, 100, 5)] in ([10, 10, 5], [5, 10, 10], [10, 5, 10])


def test_a_long_text_does_not_pad_the_short_ones() -> None:
    assert plan([400, 10, 12, 11], 2048, 32) == [[1, 3, 2], [0]]
