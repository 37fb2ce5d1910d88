"""Which months are run now."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.indexing.due import Asked, due_months
from rag_pipeline.months import Month

NOW = datetime(2024, 6, 1, tzinfo=UTC)
months = st.builds(Month, st.integers(2020, 2024), st.integers(1, 12))
work = st.dictionaries(months, st.sampled_from(["a", "b"]), max_size=20)
asked = st.dictionaries(
    months,
    st.builds(
        Asked,
        st.sampled_from(["a", "b"]),
        st.integers(1, 5),
        st.sampled_from([NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)]),
    ),
)


@given(work, st.sets(months), asked, st.integers(0, 5))
def test_oldest_first_capped_and_never_twice_at_once(
    work: dict[Month, str], busy: set[Month], asked: dict[Month, Asked], limit: int
) -> None:
    due, remembered = due_months(work, busy, asked, NOW, limit)
    assert due == sorted(due)
    assert len(due) <= limit
    assert set(due) <= set(work) - busy
    assert set(remembered) <= set(work)
    # Asked again at once, nothing is: what was just asked for waits.
    again, _ = due_months(work, busy, remembered, NOW, limit)
    assert not set(again) & set(due)


def test_work_that_stays_the_same_is_asked_for_with_growing_pauses() -> None:
    month, now = Month(2024, 1), NOW
    remembered: dict[Month, Asked] = {}
    pauses = []
    for _ in range(9):
        due, remembered = due_months({month: "same"}, (), remembered, now, 5)
        assert due == [month]
        pauses.append(remembered[month].again_at - now)
        now = remembered[month].again_at
    assert pauses[0] == timedelta(minutes=1)
    assert pauses[1] == timedelta(minutes=2)
    assert pauses[-1] == timedelta(hours=1)


def test_other_work_is_asked_for_at_once() -> None:
    month = Month(2024, 1)
    _, remembered = due_months({month: "one"}, (), {}, NOW, 5)
    due, _ = due_months({month: "two"}, (), remembered, NOW, 5)
    assert due == [month]
