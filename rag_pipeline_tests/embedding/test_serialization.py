from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.serialization import deserialize, serialize

floats = st.floats(width=32, allow_nan=False)


def _matrix(shape: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[np.ndarray]:
    return shape.flatmap(lambda size: numpy_st.arrays(np.float32, size, elements=floats))


chunk_vectors = st.builds(
    ChunkVectors,
    dense=st.none() | _matrix(st.tuples(st.integers(0, 8))),
    sparse=st.none() | st.dictionaries(st.integers(0, 2**32 - 2), floats, max_size=8),
    multi=st.none() | _matrix(st.tuples(st.integers(1, 5), st.integers(1, 6))),
    multi_positions=st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=6),
    token_count=st.integers(0, 2**32 - 1),
)


def assert_same(found: ChunkVectors | None, expected: ChunkVectors) -> None:
    """Assert that the vectors are equal bit for bit and have the same types."""
    assert found is not None
    for one, other in ((found.dense, expected.dense), (found.multi, expected.multi)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()
    assert found.sparse == expected.sparse
    assert found.multi_positions == expected.multi_positions
    assert found.token_count == expected.token_count


@given(chunk_vectors)
def test_nothing_is_lost(vectors: ChunkVectors) -> None:
    assert_same(deserialize(serialize(vectors)), vectors)


@given(vectors=chunk_vectors, data=st.data())
def test_damaged_bytes_are_a_miss(vectors: ChunkVectors, data: st.DataObject) -> None:
    value = bytearray(serialize(vectors))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert deserialize(bytes(value)) is None


@given(vectors=chunk_vectors, data=st.data())
def test_truncated_bytes_are_a_miss(vectors: ChunkVectors, data: st.DataObject) -> None:
    value = serialize(vectors)
    assert deserialize(value[: data.draw(st.integers(0, len(value) - 1))]) is None


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_miss(value: bytes) -> None:
    assert deserialize(value) is None


def test_deserialized_vectors_are_writable() -> None:
    found = deserialize(serialize(ChunkVectors(np.ones(3, dtype=np.float32), None, None)))
    found.dense[0] = 2
