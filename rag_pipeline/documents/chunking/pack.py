"""From pieces to chunks: as many pieces as fit into each, and after an edit the old cuts that still fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from rag_pipeline.documents.chunking.groups import Run

if TYPE_CHECKING:
    from rag_pipeline.documents.chunking.groups import Group


class PreviousChunks:
    """The texts of a document's chunks before an edit, in order, and how many of them were found again."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._positions: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            self._positions.setdefault(text, []).append(position)
        self._next = 0
        self.lengths = frozenset(map(len, self._positions))
        """Lengths of the texts in characters: a text of another length need not be compared."""

    def __contains__(self, text: str) -> bool:
        return text in self._positions

    def is_next(self, text: str) -> bool:
        """Return whether the text is that of the chunk after the one found last."""
        return self._next in self._positions.get(text, ())

    def advance(self, text: str) -> None:
        """Continue after this text: after its next occurrence, or else its first."""
        positions = self._positions[text]
        self._next = 1 + next((position for position in positions if position >= self._next), positions[0])


class Packing:
    """The pieces of a group of sections, and the chunks that they are packed into."""

    def __init__(self, source: str, group: Group, target: int) -> None:
        self._source = source
        self._group = group
        self._pieces = pieces = group.pieces
        self._target = target
        self._sums = list(accumulate((piece.tokens for piece in pieces), initial=0))

    def tokens(self, run: Run) -> int:
        """Return the tokens of a run, including what must be repeated at its ends."""
        first, last = self._pieces[run.first], self._pieces[run.end - 1]
        return first.opening_tokens + self._sums[run.end] - self._sums[run.first] + last.closing_tokens

    def content(self, run: Run) -> str:
        """Return the text of a run that a reader sees."""
        first, last = self._pieces[run.first], self._pieces[run.end - 1]
        return first.opening + self._source[first.start : last.end] + last.closing

    def embedding_text(self, run: Run) -> str:
        """Return the content, preceded by a line that says where in which document it stands."""
        return self._group.context(run) + self.content(run)

    def runs(self, previous: PreviousChunks) -> list[Run]:
        """Return the runs that cover all pieces, in order.

        A run whose text is that of a previous chunk stays. The pieces between such runs are packed separately,
        each run as full as possible. A new run below a quarter of the target (a crumb) joins a neighbour if it
        fits there, so that edits do not leave crumbs behind.
        """
        runs: list[Run] = []
        crumbs: set[Run] = set()
        begin = 0
        for kept in (*self._kept_runs(previous), Run(len(self._pieces), len(self._pieces))):
            new = self._new_runs(begin, kept.first)
            crumbs.update(run for run in new if self.tokens(run) * 4 < self._target)
            runs += new
            if kept.first < kept.end:
                runs.append(kept)
            begin = kept.end
        return self._without_crumbs(runs, crumbs)

    def _kept_runs(self, previous: PreviousChunks) -> list[Run]:
        kept: list[Run] = []
        begin = 0
        while begin < len(self._pieces) and previous.lengths:
            run = self._longest_previous(begin, previous)
            if run is None:
                begin += 1
            else:
                kept.append(run)
                previous.advance(self.embedding_text(run))
                begin = run.end
        return kept

    def _longest_previous(self, begin: int, previous: PreviousChunks) -> Run | None:
        """Return the run from here that is a previous chunk: the next in order, or else the longest; or None."""
        found = None
        for end in range(begin + 1, len(self._pieces) + 1):
            run = Run(begin, end)
            if end > begin + 1 and self._sums[end] - self._sums[begin] > self._target:
                break
            if self._length(run) in previous.lengths and (text := self.embedding_text(run)) in previous:
                found = run
                if previous.is_next(text):
                    break
        return found

    def _length(self, run: Run) -> int:
        first, last = self._pieces[run.first], self._pieces[run.end - 1]
        return len(self._group.context(run)) + len(first.opening) + last.end - first.start + len(last.closing)

    def _new_runs(self, begin: int, stop: int) -> list[Run]:
        runs = []
        while begin < stop:
            end = begin + 1
            while (
                end < stop and self._group.joins(begin, end) and self.tokens(Run(begin, end + 1)) <= self._target
            ):
                end += 1
            runs.append(Run(begin, end))
            begin = end
        return runs

    def _without_crumbs(self, runs: list[Run], crumbs: set[Run]) -> list[Run]:
        """Return the runs with each crumb joined to the run before or after it, if both fit together."""
        result: list[Run] = []
        for run in runs:
            if result and (run in crumbs or result[-1] in crumbs):
                joined = Run(result[-1].first, run.end)
                fits = self.tokens(joined) <= self._target
                if fits and all(self._group.joins(joined.first, piece) for piece in range(run.first, run.end)):
                    result[-1] = joined
                    continue
            result.append(run)
        return result
