"""BM25 as sparse vectors, so that an inner product in Milvus is the score.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the idf of Lucene,
which is never negative:

    score(q, d) = Σ over words w:  qtf(w) · idf(w)  ×  tf(w)·(k1+1) / (tf(w) + k1·(1 − b + b·|d|/avg))
                                   └ query_vector ┘     └ document_vector ─────────────────────────────┘
    idf(w) = ln(1 + (N − df(w) + 0.5) / (df(w) + 0.5))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from math import log

import numpy as np

from rag_pipeline.embedding.base import DocumentFrequency, SparseVector

K1 = 1.2
B = 0.75
"""The usual values, those of Lucene."""

AVERAGE_WORDS = 200
"""The length that counts as average. A constant, where the formula has the corpus's own average: so a chunk's
vector depends on its text alone, can be cached, and does not age while the index grows. Chunks are cut to one size,
so the two lie close together; 200 is what a chunk of 300 to 400 tokens has."""

VERSION = f"bm25-{K1}-{B}-{AVERAGE_WORDS}"
"""Part of the fingerprint of whoever uses this."""

_TERM_IDS = 2**32 - 1  # Milvus takes ids below this


def term_id(word: str) -> int:
    """The word's place in a sparse vector: a stable 32-bit hash. Among 100,000 words about one pair shares an id."""
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest()) % _TERM_IDS


def document_vector(words: Sequence[str]) -> SparseVector:
    """The right half of the score, for a chunk's words."""
    length_norm = K1 * (1 - B + B * len(words) / AVERAGE_WORDS)
    return _vector({word: tf * (K1 + 1) / (tf + length_norm) for word, tf in Counter(words).items()})


def query_vector(words: Sequence[str], document_frequency: DocumentFrequency | None = None) -> SparseVector:
    """The left half of the score, for a query's words; without `document_frequency` idf is 1."""
    counts = Counter(words)
    if document_frequency is None or not counts:
        return _vector({word: float(qtf) for word, qtf in counts.items()})
    total, holding = document_frequency(list(counts))
    return _vector({word: qtf * idf(total, holding.get(word, 0)) for word, qtf in counts.items()})


def idf(total: int, holding: int) -> float:
    """Return the inverse document frequency of a word that `holding` of `total` chunks contain; never negative.

    The statistics can lag behind the index: a word in more chunks than exist weighs as much as one in all of them.
    """
    return log(1 + (max(total - holding, 0) + 0.5) / (holding + 0.5))


def _vector(weights: dict[str, float]) -> SparseVector:
    """Weights are rounded to float32, as they are cached and stored, so that a vector is the same everywhere."""
    vector: SparseVector = {}
    for word, weight in weights.items():
        term = term_id(word)
        vector[term] = float(np.float32(vector.get(term, 0.0) + weight))
    return vector
