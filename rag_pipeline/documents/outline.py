"""A Markdown text's outline: sections by their headings, and in each the blocks it is made of.

Positions only: every block is a range of the source, and together they cover all of it but white space, so that
whatever is cut along the outline is an exact slice and nothing is lost.
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
"""Characters of a heading that are looked at for its title."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the source, `source[start:end]`: whole lines, without the line end of the last one."""

    block_type: str
    """text, code, table, list, item, quote or heading."""
    start: int
    end: int
    children: tuple[Block, ...] = ()
    """Of a list its items, of an item or a quote its blocks."""
    opening: int = 0
    """Lines at the start that each part has to repeat: a fence's first line, a table's header."""
    closing: str = ""
    """The line that closes a fence."""
    is_closed: bool = False
    """Whether the source has that line."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the blocks up to the next one; the first section may have no heading."""

    title: str | None
    """The heading as plain text on one line."""
    level: int
    """1 for text before any heading and for top-level sections, 2 for the sections inside these, ..."""
    parent: int | None
    """The index of the section around this one."""
    heading: Block | None
    blocks: tuple[Block, ...]


def outline(source: str) -> list[Section]:
    """The sections of a Markdown text with `\\n` line ends, in reading order; none where it is blank.

    CommonMark with tables. Only headings outside lists and quotes open a section; levels count the nesting, so a
    `###` directly below a `#` is on level 2.
    """
    parts: list[tuple[_Heading | None, list[Block]]] = [(None, [])]
    for block in _blocks(source):
        if isinstance(block, _Heading):
            parts.append((block, []))
        else:
            parts[-1][1].append(block)

    sections: list[Section] = []
    around: list[tuple[int, int]] = []  # (rank of the heading, index of its section), outermost first
    for heading, blocks in parts:
        if heading is None:
            if blocks:
                sections.append(Section(None, 1, None, None, tuple(blocks)))
            continue
        while around and around[-1][0] >= heading.rank:
            around.pop()
        parent = around[-1][1] if around else None
        around.append((heading.rank, len(sections)))
        sections.append(Section(_plain(heading.inline), len(around), parent, heading.block, tuple(blocks)))
    return sections


def first_heading(source: str) -> str | None:
    """The text of the first heading, or None."""
    return next((section.title for section in outline(source) if section.title), None)


class _Heading(NamedTuple):
    block: Block
    rank: int
    """1 to 6."""
    inline: str
    """Its text as inline Markdown."""


def _blocks(source: str) -> Iterator[Block | _Heading]:
    """The top-level blocks."""
    lines = _Lines(source)
    tokens = _parser().parse(source)
    at = 0  # the first line not covered yet
    position = 0
    while position < len(tokens):
        token = tokens[position]
        block, following = _block(lines, tokens, position)
        if block is not None and token.map:
            yield from lines.gaps(at, token.map[0])  # definitions of link targets leave no token
            at = token.map[1]
            if block.block_type == "heading":
                yield _Heading(block, int(token.tag[1]), tokens[position + 1].content)
            else:
                yield block
        position = following
    yield from lines.gaps(at, len(lines))


def _block(lines: _Lines, tokens: Sequence[Token], position: int) -> tuple[Block | None, int]:
    """(the block that the token at a position opens, the position behind it)."""
    token = tokens[position]
    block_type = _BLOCK_TYPES.get(token.type)
    behind = position + 1
    inner: list[tuple[Block, tuple[int, int]]] = []
    if token.nesting == 1:
        while not (tokens[behind].nesting == -1 and tokens[behind].level == token.level):
            opened = tokens[behind]
            child, following = _block(lines, tokens, behind) if block_type in _CONTAINERS else (None, behind + 1)
            if child is not None and opened.map:
                inner.append((child, (opened.map[0], opened.map[1])))
            behind = following
        behind += 1
    if block_type is None or token.map is None:
        return None, behind
    span = lines.span(*token.map)
    if span is None:
        return None, behind
    children: list[Block] = []
    at = token.map[0]
    for child, (first, last) in inner:
        children += [*lines.gaps(at, first), child]
        at = last
    if inner:
        children += lines.gaps(at, token.map[1])
    opening, closing, is_closed = _frame(lines, token)
    return Block(block_type, *span, tuple(children), opening, closing, is_closed), behind


def _frame(lines: _Lines, token: Token) -> tuple[int, str, bool]:
    if token.type == "table_open":
        return 2, "", False
    if token.type != "fence" or token.map is None:
        return 0, "", False
    first, last = token.map
    line = lines[first]
    # A fence inside a list or a quote is closed with the same indentation and the same `>`.
    before = re.sub(r"[^>\s]", " ", line[: line.index(token.markup)])
    is_closed = last - first > 1 and re.fullmatch(
        rf"[>\s]*{re.escape(token.markup)}{re.escape(token.markup[0])}*\s*", lines[last - 1]
    )
    return 1, before + token.markup, bool(is_closed)


class _Lines:
    """The lines of a text and where they start."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._starts = list(accumulate((len(line) + 1 for line in self._lines), initial=0))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> str:
        return self._lines[number]

    def span(self, first: int, behind: int) -> tuple[int, int] | None:
        """The range of these lines in the source without blank ones around them; None if all are."""
        while first < behind and not self._lines[first].strip():
            first += 1
        while first < behind and not self._lines[behind - 1].strip():
            behind -= 1
        if first == behind:
            return None
        return self._starts[first], self._starts[behind] - 1

    def gaps(self, first: int, behind: int) -> list[Block]:
        """Text blocks for what stands in these lines."""
        span = self.span(first, behind)
        return [Block("text", *span)] if span else []


def _plain(inline: str) -> str | None:
    """A heading's text without markup: emphasis, links, code and HTML tags gone, their text kept."""
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

    # Blocks are all that is asked for; inline markup would be most of the work.
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")
