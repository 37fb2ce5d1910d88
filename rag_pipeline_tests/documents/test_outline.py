from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.outline import Block, first_heading, outline


def test_sections_and_their_levels() -> None:
    source = "before\n\n# One\n\n### Deep\n\ntext\n\n## Two\n\nSetext\n===\n\nlast\n\n##### Five\n\n## Two again\n"
    sections = outline(source)
    assert [(section.title, section.level, section.parent) for section in sections] == [
        (None, 1, None),
        ("One", 1, None),
        ("Deep", 2, 1),
        ("Two", 2, 1),
        ("Setext", 1, None),
        ("Five", 2, 4),
        ("Two again", 2, 4),
    ]


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("# *Bold* `code` [link](http://x) ![alt](y)", "Bold code link alt"),
        ("# <a name='x'></a>設定 #", "設定"),
        ("two\nlines\n---", "two lines"),
        ("#", None),
    ],
)
def test_titles_are_plain_text(heading: str, title: str | None) -> None:
    assert outline(heading)[0].title == title
    assert first_heading(f"text\n\n{heading}\n\n# Next") == (title or "Next")


@pytest.mark.parametrize(
    "source",
    [
        "```\n# comment\n```",
        "- # in a list",
        "> # in a quote",
        "    # indented",
        "#no space",
        "<!--\n# hidden\n-->",
    ],
)
def test_what_is_not_a_heading(source: str) -> None:
    assert [section.heading for section in outline(source)] == [None]


def test_blocks_are_slices_of_the_source() -> None:
    source = "para\ngoes on\n\n[ref]: http://x\n\n- a\n- b\n\n  more\n\n> q\n\n```py\nx\n```\n\n| a |\n|---|\n| 1 |\n\n<p>\n"
    (section,) = outline(source)
    assert [(block.block_type, source[block.start : block.end]) for block in section.blocks] == [
        ("text", "para\ngoes on"),
        ("text", "[ref]: http://x"),
        ("list", "- a\n- b\n\n  more"),
        ("quote", "> q"),
        ("code", "```py\nx\n```"),
        ("table", "| a |\n|---|\n| 1 |"),
        ("text", "<p>"),
    ]
    items = section.blocks[2].children
    assert [source[item.start : item.end] for item in items] == ["- a", "- b\n\n  more"]


@pytest.mark.parametrize(
    ("source", "closing", "is_closed"),
    [
        ("~~~~ sh\nx\n~~~~~", "~~~~", True),
        ("```\nx", "```", False),
        ("- ```\n  x\n  ```", "  ```", True),
        ("> > ```\n> > x\n> > ```", "> > ```", True),
        ("```\n````x", "```", False),
        ("```", "```", False),
    ],
)
def test_fences(source: str, closing: str, is_closed: bool) -> None:
    block = outline(source)[0].blocks[0]
    while block.children:
        block = block.children[0]
    assert (block.block_type, block.closing, block.is_closed) == ("code", closing, is_closed)


@given(st.text(st.sampled_from("#-=*>`~|:[]()<!1. \t\n　あa"), max_size=200))
def test_every_non_blank_character_is_in_exactly_one_block(source: str) -> None:
    at = 0

    def check(block: Block) -> None:
        at = block.start
        for child in block.children:
            assert not source[at : child.start].strip()
            check(child)
            at = child.end
        assert not block.children or not source[at : block.end].strip()

    for section in outline(source):
        for block in [*([section.heading] if section.heading else []), *section.blocks]:
            assert not source[at : block.start].strip()
            assert source[block.start : block.end].strip()
            check(block)
            at = block.end
    assert not source[at:].strip()
