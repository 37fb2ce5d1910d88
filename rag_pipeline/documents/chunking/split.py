"""From blocks to pieces: the parts of the source that chunks are made of, and that are never cut again.

A block that fits into a chunk is one piece. A larger block is cut where it does the least harm: a list between
items, code and tables between lines, text between sentences, a sentence at commas, then between words. Only a word
that is too long by itself is cut inside, and never within what a reader sees as one character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rag_pipeline.documents.outline import Block
from rag_pipeline.language.characters import split_characters
from rag_pipeline.language.sentences import split_sentences

_CLAUSE_END = re.compile(r"(?:[、，､；：]|[,;:](?=\s)|\n)\s*")
_WORD_END = re.compile(r"(?<=\S)\s+")
# A Japanese phrase ends where its hiragana end: カタカナや|漢字の|後ろの|ひらがなまで
_PHRASE_END = re.compile(r"(?<=[\u3041-\u3096])(?![\u3041-\u309a\u30fc\u0300-\u036f\u200d\ufe00-\ufe0f])")


class Piece(NamedTuple):
    """A range of the source that is not cut again, and its tokens."""

    start: int
    end: int
    block_type: str
    """Type of the top-level block it belongs to: text, code, table, list, quote or heading."""
    tokens: int
    opening: str = ""
    """Put before the piece if it begins a chunk: a fence's first line or a table's header, and a line end."""
    opening_tokens: int = 0
    closing: str = ""
    """Put after the piece if it ends a chunk: a line end and the closing line of a fence."""
    closing_tokens: int = 0


class Cutter:
    """Cuts the blocks of one source into pieces of at most `target` tokens.

    Only a single character can be larger. Each text is counted once per level at which it is cut, so the total
    cost is a small multiple of counting the source once.
    """

    def __init__(self, source: str, count_tokens: Callable[[str], int], target: int) -> None:
        self._source = source
        self._count_tokens = count_tokens
        self._target = target

    def whole(self, block: Block) -> Piece:
        """Return the block as one piece, whatever its size."""
        return Piece(block.start, block.end, block.block_type, self._count(block.start, block.end))

    def pieces(self, block: Block, whole: Piece) -> Iterator[Piece]:
        """Yield the pieces of a block that is too large to stay whole. `whole` is the block as one piece."""
        if block.block_type == "code" or block.block_type == "table":
            yield from self._framed(block, whole.block_type)
        elif block.children:
            for child in block.children:
                same = (child.start, child.end) == (block.start, block.end)
                tokens = whole.tokens if same else self._count(child.start, child.end)
                piece = Piece(child.start, child.end, whole.block_type, tokens)
                if tokens <= self._target:
                    yield piece
                else:
                    yield from self.pieces(child, piece)
        else:
            for start, end, tokens in self._divide(block.start, block.end, whole.tokens, self._target, 0):
                yield Piece(start, end, whole.block_type, tokens)

    def _framed(self, block: Block, block_type: str) -> Iterator[Piece]:
        """Yield the lines of code or the rows of a table as pieces, each with what opens and closes its part."""
        lines = list(self._lines(block))
        head = (block.start, lines[block.opening - 1][1] if block.opening else block.start)
        opening = self._source[slice(*head)]
        frame = Piece(
            *head,
            block_type,
            tokens=self._count_tokens(opening) if opening else 0,
            closing="\n" + block.closing if block.closing else "",
            closing_tokens=self._count_tokens(block.closing) if block.closing else 0,
        )
        room = self._target - frame.tokens - frame.closing_tokens
        if not opening or room * 2 < self._target:
            # There is nothing to repeat, or no room for it: the head is a line like any other.
            whole_head = [head] if opening else []
            yield from self._rows(
                block, Piece(0, 0, block_type, 0), whole_head + lines[block.opening :], self._target
            )
            return
        part = frame._replace(opening=opening + "\n", opening_tokens=frame.tokens)
        body = list(self._rows(block, part, lines[block.opening : len(lines) - block.is_closed], room))
        # The head and the end in the source belong to the lines next to them and are not repeated there.
        if body and body[0].opening:
            first = body[0]
            body[0] = first._replace(
                start=block.start, tokens=first.tokens + frame.tokens, opening="", opening_tokens=0
            )
        else:
            body.insert(0, frame)
        last = body[-1]
        if block.is_closed:
            last = last._replace(end=block.end, tokens=last.tokens + frame.closing_tokens)
        body[-1] = last._replace(closing="", closing_tokens=0)
        yield from body

    def _rows(self, block: Block, frame: Piece, lines: list[tuple[int, int]], room: int) -> Iterator[Piece]:
        """Yield lines as pieces with a frame. Lines of more than `room` tokens are cut."""
        for start, end in lines:
            tokens = self._count(start, end)
            if tokens <= room:
                yield frame._replace(start=start, end=end, tokens=tokens)
            elif block.block_type == "table" and tokens <= self._target:
                yield Piece(
                    start, end, frame.block_type, tokens
                )  # a row that fits, but not together with the header
            else:
                for first, last, part in self._divide(start, end, tokens, room, 1):
                    yield frame._replace(start=first, end=last, tokens=part)

    def _lines(self, block: Block) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the lines of a block, except blank lines."""
        start = block.start
        for line in self._source[block.start : block.end].split("\n"):
            if line.strip():
                yield start, start + len(line)
            start += len(line) + 1

    def _divide(self, start: int, end: int, tokens: int, room: int, level: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at a level of `_LEVELS` or finer; yields (start, end, tokens) with at most `room` tokens."""
        text = self._source[start:end]
        finest = len(_LEVELS) - 1
        while level < finest and len(next(_LEVELS[level](text))) == len(text):
            level += 1
        if level and tokens <= room:  # text after a heading, cut between its sentences, but it is one sentence
            yield start, end, tokens
            return
        # Each sentence or clause is a part. Anything finer is grouped to the size that will probably fit, because
        # counting word by word would cost more than everything else here.
        size = 0
        if level >= _FIRST_GROUPED:
            size = min(len(text) * room * 9 // (max(1, tokens) * 10), len(text) // 2)
        for first, last, is_single in _groups(_LEVELS[level](text), start, size):
            trimmed = self._trim(first, last)
            if trimmed is None:
                continue
            part = self._count(*trimmed)
            if part <= room or (is_single and level == finest):
                yield (*trimmed, part)
            else:
                yield from self._divide(*trimmed, part, room, level + 1 if is_single else level)

    def _trim(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the range without surrounding white space, but with indentation; None if it is blank."""
        text = self._source[start:end]
        if not text.strip():
            return None
        end -= len(text) - len(text.rstrip())
        if start and self._source[start - 1] != "\n":
            start += len(text) - len(text.lstrip())
        return start, end

    def _count(self, start: int, end: int) -> int:
        return self._count_tokens(self._source[start:end])


def _groups(atoms: Iterable[str], start: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Group atoms into runs of at most `size` characters or one atom. Yields (start, end, is one atom)."""
    begin, end, count = start, start, 0
    for atom in atoms:
        if count and end + len(atom) - begin > size:
            yield begin, end, count == 1
            begin, count = end, 0
        end += len(atom)
        count += 1
    if count:
        yield begin, end, count == 1


def _cut_after(boundary: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    def split(text: str) -> Iterator[str]:
        begin = 0
        for match in boundary.finditer(text):
            if begin < match.end():
                yield text[begin : match.end()]
                begin = match.end()
        if begin < len(text):
            yield text[begin:]

    return split


_LEVELS: tuple[Callable[[str], Iterator[str]], ...] = (
    lambda text: iter(split_sentences(text)),
    _cut_after(_CLAUSE_END),
    _cut_after(_WORD_END),
    _cut_after(_PHRASE_END),
    split_characters,
)
_FIRST_GROUPED = 2
