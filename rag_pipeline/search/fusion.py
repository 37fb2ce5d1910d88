"""Fusion: one order from what the legs of a search found. Pure arithmetic.

Scores of different legs do not compare: an inner product of unit vectors lies in a narrow band, a BM25 score has no
upper end. So each leg's scores become z-scores over the candidates, which are added. On Japanese text this orders
better than reciprocal ranks, which forget by how much one candidate is better than the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scores = NDArray[np.float64]

_Key = TypeVar("_Key")


def standardize(scores: Scores) -> Scores:
    """(n,) → (n,): how many standard deviations each score is above the mean; all 0 where all are equal."""
    if not len(scores):
        return scores
    centred = scores - scores.mean()
    deviation = centred.std()
    # What is left of equal numbers after rounding is no difference.
    if deviation <= 1e-9 * max(1.0, float(np.abs(scores).max())):
        return np.zeros_like(scores)
    return centred / deviation


def standardized(found: Mapping[_Key, float], candidates: Sequence[_Key], missing: float | None = None) -> Scores:
    """One leg's z-scores of the candidates.

    A candidate that the leg did not return has `missing` as its score, by default the worst that was returned: it
    is no better than that.
    """
    if not found:
        return np.zeros(len(candidates))
    floor = min(found.values()) if missing is None else missing
    return standardize(np.array([found.get(candidate, floor) for candidate in candidates], dtype=np.float64))


def descending(scores: Scores) -> list[int]:
    """The indexes from the highest score to the lowest; equal ones stay in their order."""
    return [int(index) for index in np.argsort(-scores, kind="stable")]
