from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from rag_pipeline.search.fusion import descending, standardize, standardized
from rag_pipeline.search.maxsim import keep_best

scores = st.lists(st.floats(-1e6, 1e6, width=32), max_size=60).map(lambda found: np.array(found, dtype=np.float64))


@given(scores)
def test_standardized_scores_keep_their_order_and_have_mean_0_and_deviation_1(raw):
    found = standardize(raw)
    assert np.isfinite(found).all()
    if len(raw) and found.any():
        assert abs(found.mean()) < 1e-6
        assert abs(found.std() - 1) < 1e-6
        order = np.argsort(raw, kind="stable")
        assert (np.diff(found[order]) >= 0).all()


@given(scores, st.floats(0.5, 100), st.integers(-1000, 1000))
def test_a_legs_scale_does_not_matter(raw, scale, shift):
    assume(len(raw) > 1 and np.ptp(raw) > 1e-2)
    np.testing.assert_allclose(standardize(raw * scale + shift), standardize(raw), atol=1e-4)


@given(st.integers(0, 20), st.floats(-1e6, 1e6))
def test_equal_scores_are_standardized_to_zero(count, value):
    assert not standardize(np.full(count, value)).any()


@given(
    st.dictionaries(st.integers(0, 50), st.floats(0.0, 100.0), min_size=1), st.sets(st.integers(0, 80), min_size=1)
)
def test_a_candidate_that_a_leg_did_not_return_is_no_better_than_its_worst(found, candidates):
    order = sorted(candidates)
    by_candidate = dict(zip(order, standardized(found, order), strict=True))
    returned = [by_candidate[key] for key in order if key in found]
    for key in order:
        if key not in found and returned:
            assert by_candidate[key] <= min(returned) + 1e-9


def test_a_leg_without_candidates_adds_zero():
    assert not standardized({}, ["a", "b"]).any()


def test_the_only_chunk_with_a_word_stands_out():
    one, *others = standardized({"it": 7.5}, ["it", *map(str, range(20))], missing=0.0)
    assert one > 3
    assert max(others) < 0


@given(scores)
def test_descending_is_stable(raw):
    order = descending(raw)
    assert sorted(order) == list(range(len(raw)))
    for before, after in pairwise(order):
        assert raw[before] > raw[after] or (raw[before] == raw[after] and before < after)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)), min_size=1, max_size=30),
    st.integers(1, 30),
)
def test_maxsim_does_not_depend_on_the_order_of_rows(query_rows, rows, batch):
    """Compare rows of several chunks, in any order and any batches, with the definition."""
    query = np.random.default_rng(0).normal(size=(query_rows, 8)).astype(np.float32)
    owners = [UUID(int=owner) for owner, _ in rows]
    vectors = np.stack([np.random.default_rng(seed).normal(size=8).astype(np.float32) for _, seed in rows])
    best: dict = {}
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        keep_best(best, owners[part], vectors[part] @ query.T)
    assert set(best) == set(owners)
    for owner in set(owners):
        own = vectors[[index for index, other in enumerate(owners) if other == owner]]
        np.testing.assert_allclose(best[owner], (query @ own.T).max(axis=1), rtol=1e-5, atol=1e-5)
