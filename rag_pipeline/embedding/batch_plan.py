"""Which texts a model takes together: with little padding, and few passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def plan(lengths: Sequence[int], most_tokens: int, pass_tokens: int) -> list[list[int]]:
    """Return batches of text indexes, the shortest texts first, that cost least.

    A batch costs its tokens, with all its texts padded to the longest, and `pass_tokens`: in how many tokens' time a
    pass does what does not depend on its texts, such as reading the weights. `most_tokens` are the tokens of a batch;
    a longer text is alone.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.asarray(lengths, dtype=np.int64)[order]
    # The best batches of the first n texts end with a batch of the last k of them, whose length is that of the n-th.
    cost = np.zeros(len(order) + 1)
    last = np.zeros(len(order) + 1, dtype=np.int64)
    for n, length in enumerate(ascending.tolist(), start=1):
        sizes = np.arange(1, min(n, max(1, most_tokens // max(length, 1))) + 1)
        costs = cost[n - sizes] + sizes * length + pass_tokens
        best = int(np.argmin(costs))
        cost[n], last[n] = costs[best], sizes[best]
    batches: list[list[int]] = []
    n = len(order)
    while n:
        batches.append(order[n - last[n] : n].tolist())
        n -= int(last[n])
    return batches[::-1]
