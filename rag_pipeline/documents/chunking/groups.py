"""Which sections share chunks: a large section has its own, small ones join their neighbours below the same parent.

A section of less than an eighth of a chunk, or a heading without text, says too little alone. It joins the sections
next to it, whole, as far as they fit into a chunk. A heading without text that does not fit with the section after it
begins it, and that section is cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_pipeline.documents.chunking.split import Cutter, Piece
from rag_pipeline.documents.cleaning import MAX_SECTION_TITLE, clean_field
from rag_pipeline.documents.headings import MAX_CONTEXT, SEPARATOR
from rag_pipeline.documents.outline import Section

_SMALL = 8
"""A section is small if so many would fit into a chunk. With 4, searches found a section itself less often; with 16 no
more often, and there were more chunks (`benchmarks/retrieval.py`)."""
_TYPES = frozenset({"code", "table", "list", "heading"})


class Run(NamedTuple):
    """Consecutive pieces that form a chunk: `pieces[first:end]`."""

    first: int
    end: int


class Place(NamedTuple):
    """Where a chunk stands in the outline."""

    section_title: str | None
    level: int
    parent: int | None
    """The section whose first chunk is the parent."""


class Outline:
    """The sections of a document, and their paths of headings."""

    def __init__(self, sections: Sequence[Section], title: str | None) -> None:
        self.sections = sections
        self._title = title

    def title(self, section: int) -> str | None:
        """Return the heading of a section as a field."""
        return clean_field(self.sections[section].title, MAX_SECTION_TITLE)

    def context(self, section: int, own: bool) -> str:
        """Return the line that says where a section stands: `document › chapter › section`, and a line end.

        Without `own`, the section's heading is left out, since the text begins with it. Empty if nothing is left.
        """
        path = [self.title(section)]
        parent = self.sections[section].parent
        while parent is not None:
            path.append(self.title(parent))
            parent = self.sections[parent].parent
        path.append(self._title)
        path.reverse()
        names = [name for number, name in enumerate(path) if name and name not in path[:number]]
        if not own and names and names[-1] == path[-1]:
            names.pop()
        return f"{clean_field(SEPARATOR.join(names), MAX_CONTEXT)}\n" if names else ""

    def place(self, first: int, last: int) -> Place:
        """Return where a chunk stands that opens these sections: in the first if it encloses the others."""
        parent = self.sections[first].parent
        inside = (self.sections[number].parent for number in range(first + 1, last + 1))
        if parent is not None and not all(above is not None and above >= first for above in inside):
            return Place(self.title(parent), self.sections[parent].level, parent)
        title = next((title for number in range(first, last + 1) if (title := self.title(number))), None)
        return Place(title, self.sections[first].level, parent)


class Unit(NamedTuple):
    """A section, with the headings without text that lead to it: sections `first` to `last`. It has at least a piece."""

    first: int
    last: int
    pieces: tuple[Piece, ...]
    tokens: int
    is_small: bool


class Group(ABC):
    """Pieces that are packed together, and what the chunks are whose runs of pieces are given."""

    pieces: Sequence[Piece]

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._contexts: dict[int, str] = {}

    @abstractmethod
    def joins(self, first: int, piece: int) -> bool:
        """Whether a chunk that begins with the piece `first` may go on with this piece, which follows the others."""

    @abstractmethod
    def place(self, run: Run) -> Place:
        """Return where the chunk stands: in its section, or in that which encloses all its sections."""

    @abstractmethod
    def opened(self, run: Run) -> range:
        """Return the sections that the chunk opens."""

    def context(self, run: Run) -> str:
        """Return the line in front of what is embedded, which depends on where the run begins."""
        if run.first not in self._contexts:
            self._contexts[run.first] = self._context(run.first)
        return self._contexts[run.first]

    def chunk_type(self, run: Run) -> str:
        """Return `code`, `table`, `list` or `heading` if the chunk has nothing else besides headings, else `text`."""
        types = {piece.block_type for piece in self._blocks(run)}
        if len(types) > 1:
            types.discard("heading")
        block_type = types.pop()
        return block_type if not types and block_type in _TYPES else "text"

    @abstractmethod
    def _context(self, first: int) -> str: ...

    @abstractmethod
    def _blocks(self, run: Run) -> Sequence[Piece]: ...


class _Alone(Group):
    """One section, cut as its chunks need it."""

    def __init__(self, outline: Outline, unit: Unit) -> None:
        super().__init__(outline)
        self._unit = unit
        self.pieces = unit.pieces

    def joins(self, first: int, piece: int) -> bool:
        return True

    def place(self, run: Run) -> Place:
        if not run.first:
            return self._outline.place(self._unit.first, self._unit.last)
        section = self._outline.sections[self._unit.last]
        return Place(
            self._outline.title(self._unit.last), section.level, self._unit.last if section.heading else None
        )

    def opened(self, run: Run) -> range:
        return range(0) if run.first else range(self._unit.first, self._unit.last + 1)

    def _context(self, first: int) -> str:
        if first:
            return self._outline.context(self._unit.last, own=True)
        return self._outline.context(self._unit.first, own=False)

    def _blocks(self, run: Run) -> Sequence[Piece]:
        return self.pieces[run.first : run.end]


class _Shared(Group):
    """Several sections, none larger than a chunk. Each is one piece."""

    def __init__(self, outline: Outline, units: Sequence[Unit]) -> None:
        super().__init__(outline)
        self._units = units
        self.pieces = [Piece(unit.pieces[0].start, unit.pieces[-1].end, "section", unit.tokens) for unit in units]

    def joins(self, first: int, piece: int) -> bool:
        before, this = self._units[piece - 1], self._units[piece]
        opens = self._units[first].first
        parent = self._outline.sections[this.first].parent
        is_sibling = parent == self._outline.sections[opens].parent
        is_inside = parent is not None and parent >= opens
        return (is_sibling or is_inside) and (before.is_small or this.is_small)

    def place(self, run: Run) -> Place:
        return self._outline.place(self._units[run.first].first, self._units[run.end - 1].last)

    def opened(self, run: Run) -> range:
        return range(self._units[run.first].first, self._units[run.end - 1].last + 1)

    def _context(self, first: int) -> str:
        return self._outline.context(self._units[first].first, own=False)

    def _blocks(self, run: Run) -> Sequence[Piece]:
        return [piece for unit in self._units[run.first : run.end] for piece in unit.pieces]


def groups(outline: Outline, cutter: Cutter, target: int) -> Iterator[Group]:
    """Yield the groups of a document's sections, in reading order."""
    stretch: list[Unit] = []
    for unit in _units(outline.sections, cutter, target):
        if unit.tokens <= target:
            stretch.append(unit)
            continue
        yield from _grouped(outline, stretch)
        yield _Alone(outline, unit)
        stretch = []
    yield from _grouped(outline, stretch)


def _grouped(outline: Outline, units: list[Unit]) -> Iterator[Group]:
    if units:
        yield _Shared(outline, units) if len(units) > 1 else _Alone(outline, units[0])


def _units(sections: Sequence[Section], cutter: Cutter, target: int) -> Iterator[Unit]:
    first = 0
    while first < len(sections):
        last = first
        pieces: list[Piece] = []
        while not sections[last].blocks and last + 1 < len(sections):
            heading = list(_heading(sections[last], cutter, target))
            before = sum(piece.tokens for piece in [*pieces, *heading])
            if sections[last + 1].parent != last and not _leads(sections, last, cutter, target, before):
                break
            pieces += heading
            last += 1
        pieces += _pieces(sections[last], cutter, target, sum(piece.tokens for piece in pieces))
        tokens = sum(piece.tokens for piece in pieces)
        is_small = tokens * _SMALL < target or not sections[last].blocks
        yield Unit(first, last, tuple(pieces), tokens, is_small)
        first = last + 1


def _leads(sections: Sequence[Section], number: int, cutter: Cutter, target: int, before: int) -> bool:
    """Whether a heading without text begins the section after it: together they do not fit into a chunk.

    It would be a chunk alone if the section before has no room for it either. Rather, the text after it is cut.
    """
    section, following = sections[number], sections[number + 1]
    if section.heading is None or following.parent != section.parent or not following.blocks:
        return False
    heading = sum(piece.tokens for piece in _heading(following, cutter, target))
    first = cutter.whole(following.blocks[0])
    if before + heading + first.tokens > target and first.block_type in ("code", "table"):
        return False
    rest = sum(cutter.whole(block).tokens for block in following.blocks[1:])
    return before + heading + first.tokens + rest > target


def _heading(section: Section, cutter: Cutter, target: int) -> Iterator[Piece]:
    if section.heading is not None:
        whole = cutter.whole(section.heading)
        yield from [whole] if whole.tokens <= target else cutter.pieces(section.heading, whole)


def _pieces(section: Section, cutter: Cutter, target: int, before: int) -> Iterator[Piece]:
    """Yield the pieces of a section after headings of `before` tokens."""
    heading = list(_heading(section, cutter, target))
    yield from heading
    heading_tokens = before + sum(piece.tokens for piece in heading)
    for number, block in enumerate(section.blocks):
        whole = cutter.whole(block)
        # Text after a heading is cut between sentences, and a list between items, rather than leave the heading
        # alone.
        is_cut = (
            number == 0
            and heading_tokens
            and heading_tokens + whole.tokens > target
            and whole.block_type not in ("code", "table")
        )
        yield from cutter.pieces(block, whole) if whole.tokens > target or is_cut else [whole]
