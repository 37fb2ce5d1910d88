from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding import token_pooling
from rag_pipeline.embedding.base import FloatArray
from rag_pipeline.embedding.token_pooling import pool


def unit_rows(seed: int, count: int, width: int = 8) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 120), most=st.integers(1, 130), size=st.integers(2, 50))
def test_as_many_unit_rows_as_asked_for_in_the_order_of_the_text(
    seed: int, count: int, most: int, size: int
) -> None:
    rows = unit_rows(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_pooling, "_SLICE_ROWS", size)
        pooled, first = pool(rows, most)
    assert pooled.shape == (min(count, most), 8)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-6)
    assert first[0] == 0
    assert (np.diff(first) > 0).all()
    assert first[-1] < count


@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    shuffled=st.booleans(),
)
def test_rows_that_are_alike_become_one(seed: int, groups: list[int], shuffled: bool) -> None:
    centres = np.eye(12, dtype=np.float32)[: len(groups)]
    owners = np.repeat(np.arange(len(groups)), groups)
    generator = np.random.default_rng(seed)
    if shuffled:
        generator.shuffle(owners)
    rows = centres[owners] + generator.normal(scale=0.01, size=(len(owners), 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pooled, first = pool(rows, len(groups))
    _, expected = np.unique(owners, return_index=True)
    assert first.tolist() == sorted(expected)
    np.testing.assert_allclose(pooled, centres[owners[first]], atol=0.1)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), most=st.integers(60, 70))
def test_few_rows_stay_as_they_are(seed: int, count: int, most: int) -> None:
    rows = unit_rows(seed, count)
    pooled, first = pool(rows, most)
    np.testing.assert_array_equal(pooled, rows)
    assert first.tolist() == list(range(count))


@given(seed=st.integers(0, 10_000), most=st.integers(2, 20))
def test_pooling_loses_less_than_every_nth_row_does(seed: int, most: int) -> None:
    """MaxSim of the rows with themselves."""
    generator = np.random.default_rng(seed)
    centres = unit_rows(seed, 10)
    rows = centres[generator.integers(10, size=60)] + generator.normal(scale=0.1, size=(60, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pooled, _ = pool(rows, most)
    kept = rows[np.linspace(0, 59, most).astype(int)]
    assert (rows @ pooled.T).max(axis=1).mean() > (rows @ kept.T).max(axis=1).mean() - 0.02


@pytest.mark.parametrize("rows", [np.eye(9), np.ones((9, 9)) / 3, np.array([[1.0], [-1.0]])])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_equal_distances_and_opposite_rows_are_pooled_too(rows: FloatArray, most: int) -> None:
    pooled, first = pool(rows.astype(np.float32), most)
    assert len(pooled) == len(first) == min(most, len(rows))
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-6)
