"""Texts cut into the batches of which each is one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(sizes: Sequence[int], most_tokens: int, most_texts: int) -> Iterator[range]:
    """Yield the indexes of each batch, in order: at most so many texts and tokens; a longer text is alone.

    `sizes` are the tokens of the texts. Texts are not sorted by length: servers for many users pack tokens themselves.
    """
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == most_texts or total + size > most_tokens):
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
