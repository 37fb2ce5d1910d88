"""Pieces to chunks: as many as fit into each, and after an edit the old cuts wherever they still fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from rag_pipeline.documents.chunking.split import Piece


class Run(NamedTuple):
    """Consecutive pieces that make a chunk: `pieces[first:behind]`."""

    first: int
    behind: int


class Previous:
    """The texts of a document's chunks before an edit, in order, and how far they have been met again."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._positions: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            self._positions.setdefault(text, []).append(position)
        self._next = 0
        self.lengths = frozenset(map(len, self._positions))
        """Of the texts, in characters: what has another length need not be compared."""

    def __contains__(self, text: str) -> bool:
        return text in self._positions

    def is_next(self, text: str) -> bool:
        """Whether the text is that of the chunk after the one met last."""
        return self._next in self._positions.get(text, ())

    def meet(self, text: str) -> None:
        """Go on behind this text: its first occurrence from here, or else its first."""
        positions = self._positions[text]
        self._next = 1 + next((position for position in positions if position >= self._next), positions[0])


class Packing:
    """The pieces of one section, and the chunks that they are put together to."""

    def __init__(self, source: str, pieces: Sequence[Piece], target: int, title: str | None) -> None:
        self._source = source
        self._pieces = pieces
        self._target = target
        self._title = f"{title}\n" if title else ""
        self._sums = list(accumulate((piece.tokens for piece in pieces), initial=0))

    def tokens(self, run: Run) -> int:
        """The tokens of a run, with what has to be repeated at its ends."""
        first, last = self._pieces[run.first], self._pieces[run.behind - 1]
        return first.opening_tokens + self._sums[run.behind] - self._sums[run.first] + last.closing_tokens

    def content(self, run: Run) -> str:
        """What a reader is shown of a run."""
        first, last = self._pieces[run.first], self._pieces[run.behind - 1]
        return first.opening + self._source[first.start : last.end] + last.closing

    def embedding_text(self, run: Run) -> str:
        """The content, with the section's title before it where the run does not begin with the heading."""
        return self._prefix(run) + self.content(run)

    def runs(self, previous: Previous) -> list[Run]:
        """The runs that cover all pieces, in order.

        A run whose text is that of a previous chunk stays as it was; what is between such runs is packed on its
        own, each run as full as it can be. A new run below a quarter of the target joins a neighbour if it fits
        there, so that edits do not leave crumbs behind.
        """
        runs: list[Run] = []
        crumbs: set[Run] = set()
        begin = 0
        for kept in (*self._kept(previous), Run(len(self._pieces), len(self._pieces))):
            fresh = self._packed(begin, kept.first)
            crumbs.update(run for run in fresh if self.tokens(run) * 4 < self._target)
            runs += fresh
            if kept.first < kept.behind:
                runs.append(kept)
            begin = kept.behind
        return self._swept(runs, crumbs)

    def _prefix(self, run: Run) -> str:
        return self._title if run.first else ""

    def _kept(self, previous: Previous) -> list[Run]:
        kept: list[Run] = []
        begin = 0
        while begin < len(self._pieces) and previous.lengths:
            run = self._longest_met(begin, previous)
            if run is None:
                begin += 1
            else:
                kept.append(run)
                previous.meet(self.embedding_text(run))
                begin = run.behind
        return kept

    def _longest_met(self, begin: int, previous: Previous) -> Run | None:
        """The run from here that is a previous chunk: the one that comes next in order, or else the longest."""
        met = None
        for behind in range(begin + 1, len(self._pieces) + 1):
            run = Run(begin, behind)
            if behind > begin + 1 and self._sums[behind] - self._sums[begin] > self._target:
                break
            if self._length(run) in previous.lengths and (text := self.embedding_text(run)) in previous:
                met = run
                if previous.is_next(text):
                    break
        return met

    def _length(self, run: Run) -> int:
        first, last = self._pieces[run.first], self._pieces[run.behind - 1]
        return len(self._prefix(run)) + len(first.opening) + last.end - first.start + len(last.closing)

    def _packed(self, begin: int, end: int) -> list[Run]:
        runs = []
        while begin < end:
            behind = begin + 1
            while behind < end and self.tokens(Run(begin, behind + 1)) <= self._target:
                behind += 1
            runs.append(Run(begin, behind))
            begin = behind
        return runs

    def _swept(self, runs: list[Run], crumbs: set[Run]) -> list[Run]:
        """The runs with each crumb joined to the run before it, or else behind it, where both fit together."""
        swept: list[Run] = []
        for run in runs:
            if swept and (run in crumbs or swept[-1] in crumbs):
                joined = Run(swept[-1].first, run.behind)
                if self.tokens(joined) <= self._target:
                    swept[-1] = joined
                    continue
            swept.append(run)
        return swept
