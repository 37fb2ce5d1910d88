"""Vectors that cost almost nothing, from a generator seeded with the text. Needs only numpy: the peers use it too."""

from __future__ import annotations

import zlib

import numpy as np

DIMENSION = 1024


def generator_of(text: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(zlib.crc32(text.encode())))


def unit_vectors(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    vectors = generator.standard_normal((rows, columns), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def dense_vector(text: str) -> np.ndarray:
    return unit_vectors(generator_of(text), 1, DIMENSION)[0]
