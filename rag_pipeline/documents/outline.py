"""The outline of a Markdown text: its sections by heading, and the blocks of each section.

Blocks are positions: each is a range of the source, and together they cover all of it except white space. So
whatever is cut along the outline is an exact slice, and nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_BLOCK_TYPES = {
    "paragraph_open": "text",
    "html_block": "text",
    "hr": "text",
    "fence": "code",
    "code_block": "code",
    "table_open": "table",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "list_item_open": "item",
    "blockquote_open": "quote",
    "heading_open": "heading",
}
_CONTAINERS = frozenset({"list", "item", "quote"})
_MAX_HEADING = 2000
"""Characters of a heading that its title is taken from."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block, `source[start:end]`: whole lines, without the last line end."""

    block_type: str
    """text, code, table, list, item, quote or heading."""
    start: int
    end: int
    children: tuple[Block, ...] = ()
    """The items of a list; the blocks of an item or a quote."""
    opening: int = 0
    """Lines at the start that each part must repeat: the first line of a fence, the header of a table."""
    closing: str = ""
    """The line that closes a fence."""
    is_closed: bool = False
    """Whether the source has the closing line."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the blocks up to the next one. The first section can lack a heading."""

    title: str | None
    """The heading as plain text on one line."""
    level: int
    """1 for text before any heading and for top-level sections, 2 for the sections inside these, ..."""
    parent: int | None
    """The index of the enclosing section."""
    heading: Block | None
    blocks: tuple[Block, ...]


def outline(source: str) -> list[Section]:
    """Return the sections of a Markdown text with `\\n` line ends, in reading order; [] for a blank text.

    Parses CommonMark with tables. Only headings outside lists and quotes open a section. Levels count the nesting,
    so a `###` directly below a `#` is on level 2.
    """
    parts: list[tuple[_Heading | None, list[Block]]] = [(None, [])]
    for block in _blocks(source):
        if isinstance(block, _Heading):
            parts.append((block, []))
        else:
            parts[-1][1].append(block)

    sections: list[Section] = []
    enclosing: list[tuple[int, int]] = []  # (rank of the heading, index of its section), outermost first
    for heading, blocks in parts:
        if heading is None:
            if blocks:
                sections.append(Section(None, 1, None, None, tuple(blocks)))
            continue
        while enclosing and enclosing[-1][0] >= heading.rank:
            enclosing.pop()
        parent = enclosing[-1][1] if enclosing else None
        enclosing.append((heading.rank, len(sections)))
        sections.append(Section(_plain(heading.inline), len(enclosing), parent, heading.block, tuple(blocks)))
    return sections


def first_heading(source: str) -> str | None:
    """Return the text of the first heading that has one, or None."""
    return next((section.title for section in outline(source) if section.title), None)


class _Heading(NamedTuple):
    block: Block
    rank: int
    """1 to 6."""
    inline: str
    """The text as inline Markdown."""


def _blocks(source: str) -> Iterator[Block | _Heading]:
    """Yield the top-level blocks."""
    lines = _Lines(source)
    tokens = _parser().parse(source)
    line = 0  # the first line not covered yet
    position = 0
    while position < len(tokens):
        token = tokens[position]
        block, following = _block(lines, tokens, position)
        if block is not None and token.map:
            yield from lines.gaps(line, token.map[0])  # link reference definitions leave no token
            line = token.map[1]
            if block.block_type == "heading":
                yield _Heading(block, int(token.tag[1]), tokens[position + 1].content)
            else:
                yield block
        position = following
    yield from lines.gaps(line, len(lines))


def _block(lines: _Lines, tokens: Sequence[Token], position: int) -> tuple[Block | None, int]:
    """Return the block that the token at a position opens, and the position after it."""
    token = tokens[position]
    block_type = _BLOCK_TYPES.get(token.type)
    following = position + 1
    inner: list[tuple[Block, tuple[int, int]]] = []
    if token.nesting == 1:
        while not (tokens[following].nesting == -1 and tokens[following].level == token.level):
            opened = tokens[following]
            if block_type in _CONTAINERS:
                child, following = _block(lines, tokens, following)
            else:
                child, following = None, following + 1
            if child is not None and opened.map:
                inner.append((child, (opened.map[0], opened.map[1])))
        following += 1
    if block_type is None or token.map is None:
        return None, following
    span = lines.span(*token.map)
    if span is None:
        return None, following
    children: list[Block] = []
    line = token.map[0]
    for child, (first, last) in inner:
        children += [*lines.gaps(line, first), child]
        line = last
    if inner:
        children += lines.gaps(line, token.map[1])
    opening, closing, is_closed = _frame(lines, token)
    return Block(block_type, *span, tuple(children), opening, closing, is_closed), following


def _frame(lines: _Lines, token: Token) -> tuple[int, str, bool]:
    """Return `opening`, `closing` and `is_closed` of the block that a token opens."""
    if token.type == "table_open":
        return 2, "", False
    if token.type != "fence" or token.map is None:
        return 0, "", False
    first, last = token.map
    line = lines[first]
    # Inside a list or a quote, the closing fence has the same indentation and the same `>`.
    before = re.sub(r"[^>\s]", " ", line[: line.index(token.markup)])
    is_closed = last - first > 1 and re.fullmatch(
        rf"[>\s]*{re.escape(token.markup)}{re.escape(token.markup[0])}*\s*", lines[last - 1]
    )
    return 1, before + token.markup, bool(is_closed)


class _Lines:
    """The lines of a text and their offsets."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._starts = list(accumulate((len(line) + 1 for line in self._lines), initial=0))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> str:
        return self._lines[number]

    def span(self, first: int, end: int) -> tuple[int, int] | None:
        """Return the range of `lines[first:end]` without surrounding blank lines; None if all are blank."""
        while first < end and not self._lines[first].strip():
            first += 1
        while first < end and not self._lines[end - 1].strip():
            end -= 1
        if first == end:
            return None
        return self._starts[first], self._starts[end] - 1

    def gaps(self, first: int, end: int) -> list[Block]:
        """Return a text block for `lines[first:end]`, which no token covers; [] if all are blank."""
        span = self.span(first, end)
        return [Block("text", *span)] if span else []


def _plain(inline: str) -> str | None:
    """Return a heading's text without markup: the text of emphasis, links and code stays, HTML tags go."""
    tokens = _inline_parser().parseInline(inline[:_MAX_HEADING])
    parts = []
    for token in tokens[0].children or ():
        if token.type in ("text", "code_inline", "image"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return " ".join("".join(parts).split()) or None


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Only blocks are needed; parsing inline markup would be most of the work.
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")
