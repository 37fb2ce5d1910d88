from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
from rag_pipeline.documents.chunking.chunker import CHUNKER_VERSION, chunk_document
from rag_pipeline.documents.headings import section_path
from rag_pipeline.language.sentences import split_sentences
from rag_pipeline_tests.support.chunking import assert_slices, count_tokens, documents, soups


def chunk(markdown: str, target: int = 20) -> list[ChunkDraft]:
    return chunk_document(markdown, count_tokens=count_tokens, target_tokens=target)


def contents(markdown: str, target: int = 20) -> list[str]:
    return [draft.content for draft in chunk(markdown, target)]


def test_a_document_with_everything() -> None:
    chunks = chunk(
        "前文。\n\n# 章\n\n## 節 一\n\n本文。\n\n続き。\n\n```\ncode\n```\n\n## 節 二\n\n- a\n- b\n\n# 終\n\n| a |\n|---|\n| 1 |\n",
        30,
    )
    assert [(c.chunk_type, c.section_title, c.hierarchy_level, c.parent, c.content) for c in chunks] == [
        ("text", "章", 1, None, "前文。\n\n# 章\n\n## 節 一\n\n本文。\n\n続き。\n\n```\ncode\n```"),
        ("list", "節 二", 2, 0, "## 節 二\n\n- a\n- b"),
        ("table", "終", 1, None, "# 終\n\n| a |\n|---|\n| 1 |"),
    ]
    assert [c.position for c in chunks] == [0, 1, 2]
    assert [c.char_count for c in chunks] == [len(c.content) for c in chunks]


MANUAL = """# Manual

Intro.

## Options

### -a

all.

### -b

batch.

### -c

{long}

### -d

dry.

### -e

echo.

## Files

none.
""".format(long="long words here " * 30)


def test_small_sections_join_below_one_parent_and_large_ones_keep_their_chunks() -> None:
    chunks = chunk_document(MANUAL, count_tokens=count_tokens, target_tokens=60, title="Manual")
    assert [(c.section_title, c.hierarchy_level, c.parent) for c in chunks] == [
        ("Manual", 1, None),
        ("-c", 3, 0),
        ("-c", 3, 1),
        ("Options", 2, 0),  # the two sections belong to it, and its own heading is in the first chunk
        ("Files", 2, 0),
    ]
    assert chunks[0].content.startswith("# Manual\n\nIntro.\n\n## Options\n\n### -a")
    assert chunks[3].content == "### -d\n\ndry.\n\n### -e\n\necho."


def test_what_is_embedded_begins_with_where_it_stands() -> None:
    chunks = chunk_document(MANUAL, count_tokens=count_tokens, target_tokens=60, title="Manual")
    assert [c.embedding_text.removesuffix(c.content) for c in chunks] == [
        "",  # it begins with the title itself
        "Manual › Options\n",
        "Manual › Options › -c\n",
        "Manual › Options\n",
        "Manual\n",
    ]
    (named,) = chunk_document("text", count_tokens=count_tokens, title="手引き\n第一版")
    assert (named.content, named.embedding_text) == ("text", "手引き 第一版\ntext")
    (long,) = chunk_document("# a\n\ntext", count_tokens=count_tokens, title="長" * 500)
    assert long.embedding_text == "長" * 199 + "…\n# a\n\ntext"


def test_a_chunk_tells_the_headings_above_it() -> None:
    def paths(source: str, title: str, target: int = 60) -> list[list[str]]:
        chunks = chunk_document(source, count_tokens=count_tokens, target_tokens=target, title=title)
        contexts = [c.embedding_text.removesuffix(c.content).removesuffix("\n") for c in chunks]
        return [section_path(line, title, c.section_title) for line, c in zip(contexts, chunks, strict=True)]

    manual = [[], ["Options", "-c"], ["Options", "-c"], ["Options"], ["Files"]]
    assert paths(MANUAL, "Manual") == manual
    assert paths(MANUAL, "Other › title") == [["Manual"], *(["Manual", *path] for path in manual[1:])]
    assert paths("text", "Manual") == [[]]
    assert paths(MANUAL, "長" * 500) == [["Manual"], ["-c"], ["-c"], ["Options"], ["Files"]]
    assert paths(MANUAL, "長" * 185)[2] == ["Manual", "Op…", "-c"]
    assert section_path("長" * 180 + " › 第一章 › とても長い節…", "長" * 180, "とても長い節の題") == [
        *("第一章", "とても長い節の題")
    ]
    # The line names the title from before the document was renamed.
    assert section_path("Old title › Options", "New title", "-c") == ["Options", "-c"]


def test_sections_that_say_enough_are_not_joined() -> None:
    section = "## {}\n\n" + "word " * 18
    source = "\n\n".join(section.format(number) for number in range(4))
    assert len(chunk(source, 60)) == 4
    assert len(chunk(source, 160)) == 4
    assert len(chunk(source, 170)) == 1, "an eighth of a chunk is too little"


def test_a_heading_without_text_joins_a_sibling() -> None:
    section = "# Second\n\n" + "word " * 18
    assert len(chunk(f"# First\n\n{section}", 24)) == 1
    assert len(chunk(f"# First\n\n{section}", 21)) == 2, "it would be cut for the heading"


def test_a_heading_without_text_begins_the_next_section_rather_than_stand_alone() -> None:
    section = "## {}\n\n" + "Some words. " * 8
    full = section.format("B").strip()
    chunks = chunk(f"{section.format('A')}\n\n## Notes\n\n{full}", 29)
    assert [draft.chunk_type for draft in chunks] == ["text"] * 3
    assert chunks[1].content.startswith("## Notes\n\n## B\n\nSome words.")
    assert chunks[2].content.startswith("Some words.")
    assert contents(f"# T\n\n{full[1:]}", 27)[0].startswith("# T\n\n# B\n\nSome words.")
    code = "```\n" + "a b c\n" * 4 + "```"
    assert contents(f"# Notes\n\n# B\n\n{code}", 20)[-1] == f"# B\n\n{code}", "code that fits is not cut"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.sampled_from([20, 30, 60]))
def test_only_headings_that_nothing_follows_stand_alone(sizes: list[int], target: int) -> None:
    """Sections of short sentences, as many as `sizes` says; those of none are headings without text."""
    parts = [f"# H{number}\n\n" + "Some words. " * size for number, size in enumerate(sizes)]
    source = "\n\n".join(part.strip() for part in parts)
    alone = [draft.content for draft in chunk(source, target) if draft.chunk_type == "heading"]
    followed_by_text = {f"# H{n}" for n in range(len(sizes) - 1) if sizes[n] == 0 and sizes[n + 1]}
    assert not any(content.split("\n\n")[-1] in followed_by_text for content in alone)


def test_a_heading_without_text_stays_with_what_follows() -> None:
    long = "long words here " * 12
    first, second = chunk(f"Before, {long}\n\n# Chapter\n\n## Section\n\n{long}\n", 50)
    assert second.content.startswith("# Chapter\n\n## Section\n\nlong words")
    assert (second.section_title, second.hierarchy_level, second.parent) == ("Chapter", 1, None)
    assert "Chapter" not in first.content


def test_the_title_precedes_chunks_that_do_not_begin_with_the_heading() -> None:
    first, second = chunk("# A *b*\n\n" + "one two three four five. " * 3, 15)
    assert (first.embedding_text, second.embedding_text) == (first.content, f"A b\n{second.content}")
    assert (first.parent, second.parent) == (None, 0)
    for draft in (first, second):
        assert draft.content_hash == hashlib.sha256(f"text\0{draft.embedding_text}".encode()).hexdigest()


def test_paragraphs_are_cut_between_sentences() -> None:
    assert contents("一番目の文です。二番目の文です。三番目の文です。", 16) == [
        "一番目の文です。二番目の文です。",
        "三番目の文です。",
    ]


def test_long_sentences_are_cut_at_commas_then_between_words() -> None:
    assert contents("とても長い文は、読点で切れて、こうなります。", 10) == [
        "とても長い文は、",
        "読点で切れて、",
        "こうなります。",
    ]
    words = " ".join(f"word{number}" for number in range(40))
    pieces = contents(words, 10)
    assert " ".join(pieces) == words
    assert all(piece.split()[0].startswith("word") for piece in pieces)


def test_japanese_without_punctuation_is_cut_after_hiragana() -> None:
    text = "検索の品質は文書の構造に従う分割の精度が高いほど良くなることが知られている"
    pieces = contents(text, 12)
    assert "".join(pieces) == text
    assert all(piece[-1] in "はのにうがいどくることている" for piece in pieces[:-1])


@pytest.mark.parametrize(
    "character",
    [
        "e\u0301",
        "葛\U000e0100",
        "👨\u200d👩\u200d👧",
        "か\u3099",
        "☺\ufe0f",
        "👍🏽",
        "🇯🇵",
        "\u1112\u1161\u11ab",
        "क्षि",
        "ที่",
        "กำ",
    ],
)
def test_a_character_is_never_cut(character: str) -> None:
    pieces = contents(character * 50, 7)
    assert len(pieces) > 1
    assert "".join(pieces) == character * 50
    assert all(piece == character * (len(piece) // len(character)) for piece in pieces)


def test_code_is_cut_at_lines_with_its_fence_repeated() -> None:
    lines = [f"call({number})" for number in range(8)]
    pieces = contents("~~~py\n" + "\n".join(lines) + "\n~~~", 26)
    assert all(piece.startswith("~~~py\n") and piece.endswith("\n~~~") for piece in pieces)
    assert [line for piece in pieces for line in piece.split("\n")[1:-1]] == lines
    assert [c.chunk_type for c in chunk("~~~py\n" + "\n".join(lines) + "\n~~~", 26)] == ["code"] * len(pieces)


def test_tables_are_cut_between_rows_with_their_header_repeated() -> None:
    header = "| a | b |\n|---|---|"
    rows = [f"| {number} | x |" for number in range(8)]
    pieces = contents(header + "\n" + "\n".join(rows), 40)
    assert len(pieces) > 1
    assert all(piece.startswith(header + "\n") for piece in pieces)
    assert [row for piece in pieces for row in piece.split("\n")[2:]] == rows


def test_a_row_that_only_fits_without_the_header_stays_whole() -> None:
    row = "| " + "x " * 17 + "|"
    assert row in contents(f"| a |\n|---|\n| 1 |\n{row}\n| 2 |", 20)


def test_lists_are_cut_between_items_and_inside_items_if_needed() -> None:
    source = "- one two three\n- four five six\n\n  - deep one two three four five\n  - seven\n- last"
    assert contents(source, 9) == [
        "- one two three\n- four five six",
        "  - deep one two three four five\n  - seven",
        "- last",
    ]


def test_code_that_fits_is_not_cut_for_its_heading() -> None:
    code = "```\n" + "a b c\n" * 4 + "```"
    heading, body = chunk(f"# A long heading here\n\n{code}", 20)
    assert (heading.chunk_type, heading.content) == ("heading", "# A long heading here")
    assert (body.chunk_type, body.content, body.parent) == ("code", code, 0)


def test_text_that_fits_is_cut_rather_than_leave_its_heading_alone() -> None:
    first, second = contents("# A heading\n\nOne two three. Four five six. Seven eight nine. Ten.", 14)
    assert first == "# A heading\n\nOne two three. Four five six."
    assert second == "Seven eight nine. Ten."


def test_headings_without_text_are_kept() -> None:
    source = "# Question?\n\n# Another\n\n## Below\n\n#"
    assert contents(source) == [source]
    assert contents(source, 4) == ["# Question?", "# Another", "## Below", "#"]


@pytest.mark.parametrize("markdown", ["", "\n \n", "　\n"])
def test_a_blank_document_has_no_chunks(markdown: str) -> None:
    assert chunk(markdown) == []


def test_section_titles_are_cut() -> None:
    (draft,) = chunk("# " + "長" * 600, 1000)
    assert draft.section_title == "長" * 499 + "…"
    assert draft.content == "# " + "長" * 600


def test_a_target_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        chunk("text", 0)


def test_the_version_matches_the_result() -> None:
    """A change of the cuts must raise CHUNKER_VERSION, or stored documents would never be re-chunked."""
    source = (
        "前文です。\n\n# 章\n\n## 節 *一*\n\n"
        + "これは本文で、とても長い文です。短い文。" * 6
        + "\n\n```py\n"
        + "call(1)\n" * 9
        + "```\n\n"
        "| a | b |\n|---|---|\n"
        + "| 1 | 2 |\n" * 6
        + "\n- item one\n- item two\n\n> quoted\n\n### Deep\n\n"
        + "word " * 50
        + "\n\n### Short\n\nFew.\n\n### Next\n\n"
        + "word " * 15
        + "\n\n### Empty\n\n### Last\n\n"
        + "One word. " * 9
    )
    digest = hashlib.sha256("".join(draft.content_hash for draft in chunk(source, 30)).encode()).hexdigest()[:16]
    assert (CHUNKER_VERSION, digest) == ("5", "991b1005eb5bdbf2")


@settings(max_examples=150, deadline=None)
@given(st.one_of(documents, soups), st.sampled_from([1, 5, 12, 30, 80, 400]))
def test_nothing_is_lost_or_invented_and_everything_fits(source: str, target: int) -> None:
    chunks = chunk(source, target)
    assert_slices(source, chunks)
    assert [draft.position for draft in chunks] == list(range(len(chunks)))
    for draft in chunks:
        assert draft.content.strip()
        # Only a single character with its marks can be larger, as those of the tests are at small targets.
        assert draft.token_count <= target or len(draft.content) <= 31
        assert draft.token_count >= count_tokens(draft.content)  # more if a word was cut
        assert draft.char_count == len(draft.content)


@settings(max_examples=100, deadline=None)
@given(documents, st.sampled_from([5, 30, 80]))
def test_parents_precede_their_children(source: str, target: int) -> None:
    chunks = chunk(source, target)
    for draft in chunks:
        if draft.parent is None:
            assert draft.hierarchy_level == 1
            continue
        parent = chunks[draft.parent]
        assert draft.parent < draft.position
        assert draft.hierarchy_level >= parent.hierarchy_level
        if target > 5:  # else headings are cut
            # its heading is in it, or in the chunk that opens its section
            assert f"# {draft.section_title}" in f"{parent.content}\n{draft.content}"


@settings(max_examples=150, deadline=None)
@given(documents, st.sampled_from([20, 40, 80]))
@example("# 検索 0\n\nAlpha alpha 検索 検索 検索 検索 データ データ.", 20)  # fits, but not with its heading
def test_what_fits_is_never_cut(source: str, target: int) -> None:
    texts = [draft.content for draft in chunk(source, target)]
    for block in source.split("\n\n"):
        if block.startswith("```"):
            whole = [block]
        elif block.startswith("|"):
            whole = block.split("\n")[2:]
        elif block.startswith("- "):
            whole = block.split("\n")
        else:
            whole = [sentence.strip() for sentence in split_sentences(block)]
        for part in whole:
            assert count_tokens(part) > target or any(part in text for text in texts)


def test_counting_is_bounded() -> None:
    """Counting tokens dominates the time, so each text is counted a few times at most and never word by word."""
    source = "\n\n".join(
        [
            "# 章",
            "これは本文で、とても長い文です。" * 400,
            "word " * 4000,
            "あ" * 5000,
            "```\n" + "a line of code\n" * 500 + "```",
        ]
    )
    asked: list[int] = []

    def counting(text: str) -> int:
        asked.append(len(text))
        return count_tokens(text)

    chunk_document(source, count_tokens=counting)
    assert sum(asked) < 3 * len(source)
    assert len(asked) < 1100  # 400 sentences, 500 lines, and the parts of the other two blocks
