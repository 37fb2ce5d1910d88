"""Validation of vectors before they are cached or written: right dimension, finite, unit length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import ChunkVectors, FloatArray, SparseVector
from rag_pipeline.errors import DimensionMismatchError, RagError

MAX_TERM_ID = 2**32 - 2
"""Milvus accepts ids below 2**32 - 1 in a sparse vector."""

# Rows this close to unit length are returned unchanged.
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
    """Return the vectors of a batch, ready to write: dense and multi rows of unit length, sparse weights above 0.

    `multi_dimension` defaults to `expected_dimension`; errors call the chunks by `names`. Sparse weights of 0 or
    less are removed, so `sparse` can become empty, which is not an error.

    Raises `DimensionMismatchError` for a vector of another dimension, and `RagError` for a vector that is missing,
    zero or not finite and for a term id that Milvus does not accept. Each names the chunk.
    """

    def name(index: int) -> str:
        return names[index] if names is not None else f"text {index + 1} of {len(vectors)}"

    for kind in kinds:
        for index, of_chunk in enumerate(vectors):
            if getattr(of_chunk, kind) is None:
                raise RagError(f"{name(index)}: the embedder returned no {kind} vector: see RAG_VECTORS")
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
    """Return the dense vectors of the chunks, one each, as one matrix of unit rows."""
    for index, row in enumerate(rows):
        if row.shape != (dimension,):
            raise DimensionMismatchError(dimension, row.shape[-1] if row.ndim else 0, name(index))
    return _unit_rows(np.stack(rows), lambda index: f"{name(index)}: dense vector")


def _unit_matrix(rows: FloatArray, dimension: int, name: str) -> FloatArray:
    """Return the multi-vectors of one chunk as unit rows. One chunk at a time, because a batch can take 100 MB."""
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[-1] if rows.ndim else 0, f"{name}, multi")
    if not len(rows):
        raise RagError(f"{name}: multi vector has no rows")
    return _unit_rows(rows, lambda index: f"{name}: row {index + 1} of the multi vector")


def _unit_rows(rows: FloatArray, what: _Name) -> FloatArray:
    """Return (n, d) float32, each row divided by its length."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        index = int(np.argmin(usable))
        raise RagError(f"{what(index)} {'is zero' if lengths[index] == 0 else 'is not finite'}")
    if np.abs(lengths - 1).max() <= _UNIT_TOLERANCE:
        return rows.astype(np.float32, copy=False)
    return (rows / lengths[:, None]).astype(np.float32)


def _above_zero(vector: SparseVector, name: str) -> SparseVector:
    """Return the sparse vector with float32 weights, without those that are 0 or less after conversion."""
    if not vector:
        return {}
    for term in (min(vector), max(vector)):
        if not 0 <= term <= MAX_TERM_ID:
            raise RagError(f"{name}: sparse vector has the term id {term}, outside 0..{MAX_TERM_ID}")
    with np.errstate(over="ignore"):  # overflows to infinity, which is rejected below
        weights = np.fromiter(vector.values(), dtype=np.float32, count=len(vector))
    if not np.isfinite(weights).all():
        raise RagError(f"{name}: sparse vector has a weight that is not finite")
    return {term: weight for term, weight in zip(vector, weights.tolist(), strict=True) if weight > 0}
