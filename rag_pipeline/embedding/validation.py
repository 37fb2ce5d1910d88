"""What vectors must be before they are cached or written: of the right dimension, finite, of unit length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import ChunkVectors, FloatArray, SparseVector
from rag_pipeline.errors import DimensionMismatchError, RagError

MAX_TERM_ID = 2**32 - 2
"""Milvus takes the ids of a sparse vector below 2**32 - 1."""

# Rows this close to unit length stay as they are, to the last bit.
_UNIT_TOLERANCE = 1e-6

_Name = Callable[[int], str]


def validate(
    vectors: Sequence[ChunkVectors],
    expected_dimension: int,
    kinds: Sequence[str],
    *,
    multi_dimension: int | None = None,
    names: Sequence[str] | None = None,
) -> list[ChunkVectors]:
    """The vectors of a batch, fit to be written: dense and multi rows of unit length, sparse weights above 0.

    `multi_dimension` is `expected_dimension` where not given; `names` are what errors call the chunks. Sparse
    weights of 0 and less are dropped, so `sparse` may become empty; that is no error.

    Raises `DimensionMismatchError` on a vector of another dimension, and `RagError` on one that is missing, zero
    or not finite and on a term id that Milvus does not take. Each names the chunk.
    """

    def name(index: int) -> str:
        return names[index] if names is not None else f"text {index + 1} of {len(vectors)}"

    for kind in kinds:
        for index, of_chunk in enumerate(vectors):
            if getattr(of_chunk, kind) is None:
                raise RagError(f"{name(index)}: the embedder gave no {kind} vector; see RAG_VECTORS")
    found = list(vectors)
    if "dense" in kinds and found:
        dense = _unit_batch([v.dense for v in found if v.dense is not None], expected_dimension, name)
        found = [replace(v, dense=row) for v, row in zip(found, dense, strict=True)]
    if "multi" in kinds:
        width = expected_dimension if multi_dimension is None else multi_dimension
        multi = [_unit_matrix(v.multi, width, name(i)) for i, v in enumerate(found) if v.multi is not None]
        found = [replace(v, multi=matrix) for v, matrix in zip(found, multi, strict=True)]
    if "sparse" in kinds:
        sparse = [_above_zero(v.sparse or {}, name(i)) for i, v in enumerate(found)]
        found = [replace(v, sparse=weights) for v, weights in zip(found, sparse, strict=True)]
    return found


def _unit_batch(rows: list[FloatArray], dimension: int, name: _Name) -> FloatArray:
    """One dense vector a chunk, as one matrix."""
    for index, row in enumerate(rows):
        if row.shape != (dimension,):
            raise DimensionMismatchError(dimension, row.shape[-1] if row.ndim else 0, name(index))
    return _unit_rows(np.stack(rows), lambda index: f"{name(index)}: its dense vector")


def _unit_matrix(rows: FloatArray, dimension: int, name: str) -> FloatArray:
    """The multi-vectors of one chunk. Each chunk by itself: a batch of them may take 100 MB."""
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[-1] if rows.ndim else 0, f"{name}, multi")
    if not len(rows):
        raise RagError(f"{name}: its multi vector has no rows")
    return _unit_rows(rows, lambda index: f"{name}: row {index + 1} of its multi vector")


def _unit_rows(rows: FloatArray, what: _Name) -> FloatArray:
    """(n, d) float32, each row divided by its length."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        index = int(np.argmin(usable))
        raise RagError(f"{what(index)} {'is zero' if lengths[index] == 0 else 'is not finite'}")
    if np.abs(lengths - 1).max() <= _UNIT_TOLERANCE:
        return rows.astype(np.float32, copy=False)
    return (rows / lengths[:, None]).astype(np.float32)


def _above_zero(vector: SparseVector, name: str) -> SparseVector:
    """The sparse vector with weights as float32, without those that are 0 or less then."""
    if not vector:
        return {}
    for term in (min(vector), max(vector)):
        if not 0 <= term <= MAX_TERM_ID:
            raise RagError(f"{name}: its sparse vector has the term id {term}, not in 0..{MAX_TERM_ID}")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused below
        weights = np.fromiter(vector.values(), dtype=np.float32, count=len(vector))
    if not np.isfinite(weights).all():
        raise RagError(f"{name}: its sparse vector has a weight that is not finite")
    return {term: weight for term, weight in zip(vector, weights.tolist(), strict=True) if weight > 0}
