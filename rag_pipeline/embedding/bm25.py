"""BM25 as sparse vectors, so that the inner product in Milvus is the score.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's idf, which
is never negative:

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
"""The usual values, as in Lucene."""

AVERAGE_WORDS = 200
"""The average length in words. The formula uses the average of the corpus; a constant makes the vector of a chunk
depend on its text alone, so that it can be cached and stays valid while the index grows. Chunks are cut to one
size, so both are close: a chunk of 300 to 400 tokens has about 200 words."""

VERSION = f"bm25-{K1}-{B}-{AVERAGE_WORDS}"
"""Part of the fingerprint of an embedder that uses this module."""

_TERM_IDS = 2**32 - 1  # Milvus accepts ids below this


def term_id(word: str) -> int:
    """Return the word's term id: a stable 32-bit hash. Of 100,000 words, about one pair collides."""
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest()) % _TERM_IDS


def document_vector(words: Sequence[str]) -> SparseVector:
    """Return the right half of the score, for the words of a chunk."""
    length_norm = K1 * (1 - B + B * len(words) / AVERAGE_WORDS)
    return _vector({word: tf * (K1 + 1) / (tf + length_norm) for word, tf in Counter(words).items()})


def query_vector(words: Sequence[str], document_frequency: DocumentFrequency | None = None) -> SparseVector:
    """Return the left half of the score, for the words of a query. Without `document_frequency`, idf is 1."""
    counts = Counter(words)
    if document_frequency is None or not counts:
        return _vector({word: float(qtf) for word, qtf in counts.items()})
    total, holding = document_frequency(list(counts))
    # A word that no chunk holds finds nothing; nor must the time tell that chunks hold it which are not to be seen.
    return _vector({word: qtf * idf(total, holding[word]) for word, qtf in counts.items() if holding.get(word)})


def idf(total: int, holding: int) -> float:
    """Return the inverse document frequency of a word that `holding` of `total` chunks contain; never negative.

    The statistics can lag behind the index: a word in more chunks than exist weighs as much as one in all of them.
    """
    return log(1 + (max(total - holding, 0) + 0.5) / (holding + 0.5))


def _vector(weights: dict[str, float]) -> SparseVector:
    """Return a sparse vector. Weights are rounded to float32, as in the cache and Milvus, so all copies match."""
    vector: SparseVector = {}
    for word, weight in weights.items():
        term = term_id(word)
        vector[term] = float(np.float32(vector.get(term, 0.0) + weight))
    return vector
