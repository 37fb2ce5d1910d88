"""Fusion: one ranking from the candidates of all legs of a search. Pure arithmetic.

Scores of different legs are not comparable: inner products of unit vectors lie in a narrow band, BM25 scores have
no upper bound. So each leg's scores become z-scores over the candidates, and these are added. On Japanese text
this ranks better than reciprocal ranks, which discard by how much one candidate is better than the next.
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
    """Return each score's distance from the mean in standard deviations, (n,) → (n,); zeros if all are equal."""
    if not len(scores):
        return scores
    centred = scores - scores.mean()
    deviation = centred.std()
    # Differences this small are rounding errors of equal scores.
    if deviation <= 1e-9 * max(1.0, float(np.abs(scores).max())):
        return np.zeros_like(scores)
    return centred / deviation


def standardized(found: Mapping[_Key, float], candidates: Sequence[_Key], missing: float | None = None) -> Scores:
    """Return one leg's z-scores of the candidates.

    A candidate that the leg did not return gets the score `missing`, by default the worst returned one: it is no
    better than that.
    """
    if not found:
        return np.zeros(len(candidates))
    floor = min(found.values()) if missing is None else missing
    return standardize(np.array([found.get(candidate, floor) for candidate in candidates], dtype=np.float64))


def descending(scores: Scores) -> list[int]:
    """Return the indexes from the highest score to the lowest; equal scores keep their order."""
    return [int(index) for index in np.argsort(-scores, kind="stable")]
