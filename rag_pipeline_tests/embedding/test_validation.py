from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.validation import MAX_TERM_ID, validate
from rag_pipeline.errors import DimensionMismatchError, RagError
from rag_pipeline.settings import VECTOR_KINDS

GOOD = ChunkVectors(
    dense=np.array([0.6, 0.8], dtype=np.float32),
    sparse={7: 0.5},
    multi=np.array([[1, 0], [0, 1]], dtype=np.float32),
)

vectors = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3).filter(
        lambda row: max(map(abs, row)) > 1e-30
    ),
    min_size=1,
    max_size=5,
)


@given(vectors)
def test_rows_are_scaled_to_unit_length(rows: list[list[float]]) -> None:
    matrix = np.array(rows, dtype=np.float32)
    found = validate([ChunkVectors(row, None, matrix) for row in matrix], 3, ["dense", "multi"])
    for of_text in found:
        assert of_text.dense.dtype == of_text.multi.dtype == np.float32
        assert np.linalg.norm(of_text.dense) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(of_text.multi, axis=1) == pytest.approx(1, abs=1e-5)


@given(vectors)
def test_valid_vectors_pass_unchanged(rows: list[list[float]]) -> None:
    (once,) = validate([ChunkVectors(np.array(rows[0], dtype=np.float32), {1: 0.1}, None)], 3, ["dense", "sparse"])
    (twice,) = validate([once], 3, ["dense", "sparse"])
    np.testing.assert_array_equal(once.dense, twice.dense)
    assert once.sparse == twice.sparse


def test_another_dimension_is_rejected_with_the_familiar_message() -> None:
    with pytest.raises(DimensionMismatchError, match=r"Vector dimension mismatch: expected 1024, got 2"):
        validate([GOOD], 1024, ["dense"])


def test_multi_vectors_can_have_their_own_dimension() -> None:
    assert validate([GOOD], 2, VECTOR_KINDS)[0].sparse == GOOD.sparse
    with pytest.raises(DimensionMismatchError, match=r"expected 128, got 2 \(second, multi\)"):
        validate(
            [replace(GOOD, multi=np.ones((1, 128))), GOOD],
            2,
            VECTOR_KINDS,
            multi_dimension=128,
            names=["first", "second"],
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(GOOD, dense=np.array([0, 0], dtype=np.float32)), "chunk two: dense vector is zero"),
        (replace(GOOD, dense=np.array([np.nan, 1], dtype=np.float32)), "chunk two: dense vector is not finite"),
        (replace(GOOD, dense=np.array([np.inf, 1], dtype=np.float32)), "chunk two: dense vector is not finite"),
        (replace(GOOD, dense=None), "returned no dense vector"),
        (replace(GOOD, sparse=None), "returned no sparse vector"),
        (replace(GOOD, multi=np.zeros((0, 2), dtype=np.float32)), "chunk two: multi vector has no rows"),
        (
            replace(GOOD, multi=np.array([[1, 0], [0, 0]], dtype=np.float32)),
            "row 2 of the multi vector is zero",
        ),
        (replace(GOOD, sparse={1: float("nan")}), "a weight that is not finite"),
        (replace(GOOD, sparse={1: 1e300}), "a weight that is not finite"),
        (replace(GOOD, sparse={-1: 1.0}), "the term id -1"),
        (replace(GOOD, sparse={MAX_TERM_ID + 1: 1.0}), "the term id 4294967295"),
    ],
)
def test_invalid_vectors_are_rejected_by_name(bad: ChunkVectors, message: str) -> None:
    with pytest.raises(RagError, match=message) as caught:
        validate([GOOD, bad], 2, VECTOR_KINDS, names=["chunk one", "chunk two"])
    assert str(caught.value).startswith("chunk two")


def test_weights_of_zero_or_less_are_removed() -> None:
    bad = replace(GOOD, sparse={0: 1.0, 1: 0.0, 2: -3.0, 3: 1e-60, MAX_TERM_ID: 2.0})
    assert validate([bad], 2, VECTOR_KINDS)[0].sparse == {0: 1.0, MAX_TERM_ID: 2.0}


def test_an_empty_sparse_vector_and_an_empty_batch_are_valid() -> None:
    assert validate([replace(GOOD, sparse={})], 2, VECTOR_KINDS)[0].sparse == {}
    assert validate([], 2, VECTOR_KINDS) == []


def test_a_kind_that_is_not_built_is_not_required() -> None:
    only_dense = ChunkVectors(GOOD.dense, None, None)
    assert validate([only_dense], 2, ["dense"])[0].sparse is None
