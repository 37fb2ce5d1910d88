"""`chunk_document` with the previous chunks of an edited text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
from rag_pipeline.documents.chunking.chunker import chunk_document
from rag_pipeline_tests.support.chunking import assert_slices, count_tokens, documents, soups

TARGET = 60


def chunk(markdown: str, previous: list[ChunkDraft] | None = None, target: int = TARGET) -> list[ChunkDraft]:
    texts = [draft.embedding_text for draft in previous or []]
    return chunk_document(markdown, count_tokens=count_tokens, target_tokens=target, previous=texts)


def hashes(chunks: list[ChunkDraft]) -> set[str]:
    return {draft.content_hash for draft in chunks}


@settings(max_examples=150, deadline=None)
@given(st.one_of(documents, soups), st.sampled_from([5, 12, 30, 80]))
def test_rechunking_an_unchanged_text_changes_nothing(source: str, target: int) -> None:
    chunks = chunk(source, target=target)
    assert chunk(source, chunks, target) == chunks


@settings(max_examples=150, deadline=None)
@given(documents, documents, st.sampled_from([12, 30, 80]))
def test_after_any_edit_nothing_is_lost_and_the_result_is_stable(before: str, after: str, target: int) -> None:
    chunks = chunk(after, chunk(before, target=target), target)
    assert_slices(after, chunks)
    assert all(draft.token_count <= target for draft in chunks)
    assert chunk(after, chunks, target) == chunks


def _paragraphs(sizes: list[int]) -> list[str]:
    """Return distinct paragraphs of these numbers of tokens."""
    return [f"p{number} " + "word " * (size - 2) + "end" for number, size in enumerate(sizes)]


def _document(paragraphs: list[str]) -> str:
    return "# Title\n\nIntroduction.\n\n## Section\n\n" + "\n\n".join(paragraphs) + "\n\n## After\n\nThe end."


_sizes = st.lists(st.integers(5, 35), min_size=12, max_size=30)


@settings(max_examples=150, deadline=None)
@given(_sizes, st.data())
def test_editing_a_paragraph_of_the_same_length_changes_one_chunk(sizes: list[int], data: st.DataObject) -> None:
    paragraphs = _paragraphs(sizes)
    before = chunk(_document(paragraphs))
    edited = data.draw(st.integers(0, len(paragraphs) - 1))
    paragraphs[edited] = paragraphs[edited].replace("end", "changed")
    after = chunk(_document(paragraphs), before)
    assert len(hashes(after) - hashes(before)) == 1
    assert len(hashes(before) - hashes(after)) == 1


@settings(max_examples=150, deadline=None)
@given(_sizes, st.data())
def test_a_longer_or_shorter_paragraph_changes_only_its_own_chunk(sizes: list[int], data: st.DataObject) -> None:
    paragraphs = _paragraphs(sizes)
    before = chunk(_document(paragraphs))
    edited = data.draw(st.integers(0, len(paragraphs) - 1))
    more = data.draw(st.sampled_from([" and more", " and" * 12, ""]))
    paragraphs[edited] = paragraphs[edited].replace(" end", more) if more else f"p{edited} short"
    after = chunk(_document(paragraphs), before)
    # Its own chunk changes, and a neighbour if a crumb joined it.
    assert len(hashes(before) - hashes(after)) <= 2
    assert len(hashes(after) - hashes(before)) <= 2


@settings(max_examples=150, deadline=None)
@given(_sizes, st.integers(5, 35), st.data())
def test_inserting_or_removing_a_paragraph_keeps_the_other_chunks(
    sizes: list[int], size: int, data: st.DataObject
) -> None:
    paragraphs = _paragraphs(sizes)
    before = chunk(_document(paragraphs))
    place = data.draw(st.sampled_from([0, len(paragraphs) // 2, len(paragraphs) - 1]))
    if data.draw(st.booleans()):
        edited = [*paragraphs[:place], "new " + "word " * (size - 2) + "end", *paragraphs[place:]]
    else:
        edited = paragraphs[:place] + paragraphs[place + 1 :]
    after = chunk(_document(edited), before)
    assert len(hashes(before) - hashes(after)) <= 2
    assert len(hashes(after) - hashes(before)) <= 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 14), min_size=12, max_size=40), st.data())
def test_an_edit_among_small_sections_keeps_the_chunks_of_the_others(
    sizes: list[int], data: st.DataObject
) -> None:
    sections = [f"## Option {n}\n\n{text}" for n, text in enumerate(_paragraphs(sizes))]
    before = chunk("\n\n".join(["# Options", *sections]))
    place = data.draw(st.integers(0, len(sections) - 1))
    change = data.draw(st.sampled_from(["edit", "insert", "remove"]))
    if change == "edit":
        sections[place] = sections[place].replace("end", "changed and longer")
    elif change == "insert":
        sections.insert(place, "## New\n\nIt has some words.")
    else:
        del sections[place]
    after = chunk("\n\n".join(["# Options", *sections]), before)
    assert_slices("\n\n".join(["# Options", *sections]), after)
    assert len(hashes(before) - hashes(after)) <= 2
    assert len(hashes(after) - hashes(before)) <= 3


def test_without_the_previous_chunks_an_insertion_would_move_every_cut() -> None:
    """The reason for the reuse: packed from scratch, the same edit changes most of a section."""
    paragraphs = _paragraphs([25, 25, 30, 25, 25, 30] * 6)
    before = chunk(_document(paragraphs))
    edited = _document(["new " + "word " * 20, *paragraphs])
    assert len(hashes(chunk(edited, before)) - hashes(before)) <= 2
    assert len(hashes(chunk(edited)) - hashes(before)) > 10


def test_a_renamed_section_changes_only_its_own_chunks() -> None:
    source = _document(_paragraphs([25] * 10))
    before = chunk(source)
    after = chunk(source.replace("## Section", "## Renamed"), before)
    assert {draft.section_title for draft in after if draft.content_hash not in hashes(before)} == {"Renamed"}
    assert len(after) == len(before)


def test_repeated_texts_keep_their_order() -> None:
    source = "\n\n".join(["same words here"] * 9)
    before = chunk(source, target=8)
    assert chunk(source, before, target=8) == before


def test_many_edits_leave_no_crumbs() -> None:
    paragraphs = _paragraphs([20] * 30)
    chunks = chunk(_document(paragraphs))
    for number in range(30):
        paragraphs[number] = f"p{number}"
        chunks = chunk(_document(paragraphs), chunks)
    section = [draft for draft in chunks if draft.section_title == "Section"]
    assert sum(draft.token_count for draft in section) < TARGET
    assert len(section) == 1


@pytest.mark.parametrize("target", [20, 200])
def test_cuts_that_no_longer_fit_the_target_are_not_kept(target: int) -> None:
    source = _document(_paragraphs([15] * 20))
    after = chunk(source, chunk(source, target=60), target)
    assert all(draft.token_count <= target for draft in after)
