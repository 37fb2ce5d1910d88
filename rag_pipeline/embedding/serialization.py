"""Lossless serialization of `ChunkVectors` for the cache.

Layout, little endian, no padding:

    bytes 0       version, 1
    bytes 1-4     CRC-32 of everything after it
    bytes 5-32    seven u32: tokens of the text; length of dense; terms of sparse; rows of multi; length of a row;
                  number of positions; bits 0 to 3: dense, sparse, multi, positions are present
    then          dense, f32 · term ids, u32 · weights, f32 · multi, f32 row by row · positions, u32
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import ChunkVectors, FloatArray, SparseVector

_VERSION = 1
_PREFIX = struct.Struct("<BI")
_SIZES = struct.Struct("<7I")
_F32, _U32 = np.dtype("<f4"), np.dtype("<u4")
_DENSE, _SPARSE, _MULTI, _POSITIONS = 1, 2, 4, 8


def serialize(vectors: ChunkVectors) -> bytes:
    """Return the vectors as bytes. Weights are stored as float32, the type that embedders return."""
    dense = np.asarray([] if vectors.dense is None else vectors.dense, dtype=_F32)
    sparse = vectors.sparse or {}
    multi = np.asarray([[]] if vectors.multi is None else vectors.multi, dtype=_F32)
    positions = vectors.multi_positions or []
    present = (
        _DENSE * (vectors.dense is not None)
        | _SPARSE * (vectors.sparse is not None)
        | _MULTI * (vectors.multi is not None)
        | _POSITIONS * (vectors.multi_positions is not None)
    )
    body = b"".join(
        (
            _SIZES.pack(vectors.token_count, len(dense), len(sparse), *multi.shape, len(positions), present),
            dense.tobytes(),
            np.fromiter(sparse.keys(), dtype=_U32, count=len(sparse)).tobytes(),
            np.fromiter(sparse.values(), dtype=_F32, count=len(sparse)).tobytes(),
            multi.tobytes(),
            np.asarray(positions, dtype=_U32).tobytes(),
        )
    )
    return _PREFIX.pack(_VERSION, zlib.crc32(body)) + body


def deserialize(value: bytes) -> ChunkVectors | None:
    """Return the vectors that `serialize` stored; None for foreign or damaged bytes."""
    if len(value) < _PREFIX.size + _SIZES.size:
        return None
    version, checksum = _PREFIX.unpack_from(value)
    if version != _VERSION or checksum != zlib.crc32(memoryview(value)[_PREFIX.size :]):
        return None
    tokens, dense_length, terms, rows, width, places, present = _SIZES.unpack_from(value, _PREFIX.size)
    sizes = (dense_length, terms, terms, rows * width, places)
    offset = _PREFIX.size + _SIZES.size
    if len(value) != offset + 4 * sum(sizes):
        return None
    fields = np.frombuffer(value, dtype=_U32, offset=offset)
    dense, ids, weights, multi, positions = np.split(fields, np.cumsum(sizes)[:-1])
    return ChunkVectors(
        dense=_floats(dense) if present & _DENSE else None,
        sparse=_sparse(ids, weights) if present & _SPARSE else None,
        multi=_floats(multi).reshape(rows, width) if present & _MULTI else None,
        multi_positions=positions.tolist() if present & _POSITIONS else None,
        token_count=tokens,
    )


def _floats(field: NDArray[np.uint32]) -> FloatArray:
    return field.view(_F32).astype(np.float32)  # a copy, because arrays of frombuffer are read-only


def _sparse(ids: NDArray[np.uint32], weights: NDArray[np.uint32]) -> SparseVector:
    return dict(zip(ids.tolist(), _floats(weights).tolist(), strict=True))
