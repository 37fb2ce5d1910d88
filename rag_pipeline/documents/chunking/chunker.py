"""A document's Markdown to its chunks, along its outline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
from rag_pipeline.documents.chunking.pack import Packing, Previous
from rag_pipeline.documents.chunking.split import Cutter, Piece
from rag_pipeline.documents.cleaning import MAX_SECTION_TITLE, clean_field, clean_text
from rag_pipeline.documents.outline import Section, outline

CHUNKER_VERSION = "2"
"""Raised whenever `chunk_document` gives something else for the same text: documents are then chunked anew."""

_TYPES = frozenset({"code", "table", "list", "heading"})


def chunk_document(
    markdown: str,
    *,
    count_tokens: Callable[[str], int],
    target_tokens: int = 400,
    previous: Sequence[str] = (),
) -> list[ChunkDraft]:
    """The chunks of a document, in reading order; none where it holds no text.

    Every chunk lies in one section and is an exact slice of the Markdown, only that a code block or table which had
    to be cut has its fence or header repeated in each part. A chunk holds at most `target_tokens`, counted as the
    sum of its blocks' tokens without the section title that is put before its `embedding_text`; only a single
    character may be larger. Sentences, code blocks and table rows that fit are never cut.

    `previous` are the `embedding_text`s of the document's chunks before an edit, in order: cuts that still fit are
    kept, so that only the chunks whose text changed are new. Without it, the result depends on the text alone.

    `count_tokens` is asked about blocks, never about words.
    """
    if target_tokens < 1:
        raise ValueError(f"target_tokens is {target_tokens}: it has to be at least 1")
    source = clean_text(markdown)
    cutter = Cutter(source, count_tokens, target_tokens)
    before = Previous(previous)
    openers: list[int] = []  # the position of each section's first chunk
    chunks: list[ChunkDraft] = []
    for section in outline(source):
        openers.append(len(chunks))
        pieces = list(_pieces(section, cutter, target_tokens))
        title = clean_field(section.title, MAX_SECTION_TITLE)
        packing = Packing(source, pieces, target_tokens, title)
        for run in packing.runs(before):
            content = packing.content(run)
            embedding_text = packing.embedding_text(run)
            chunk_type = _type(pieces[run.first : run.behind])
            if run.first == 0:
                parent = openers[section.parent] if section.parent is not None else None
            else:
                parent = openers[-1] if section.heading else None
            chunks.append(
                ChunkDraft(
                    content=content,
                    chunk_type=chunk_type,
                    position=len(chunks),
                    section_title=title,
                    hierarchy_level=section.level,
                    parent=parent,
                    token_count=packing.tokens(run),
                    char_count=len(content),
                    embedding_text=embedding_text,
                    content_hash=content_hash(chunk_type, embedding_text),
                )
            )
    return chunks


def content_hash(chunk_type: str, embedding_text: str) -> str:
    """What tells whether two chunks share their vectors: see `ChunkDraft.content_hash`."""
    return hashlib.sha256(f"{chunk_type}\0{embedding_text}".encode()).hexdigest()


def _pieces(section: Section, cutter: Cutter, target: int) -> Iterator[Piece]:
    heading_tokens = 0
    if section.heading is not None:
        whole = cutter.whole(section.heading)
        heading_tokens = whole.tokens
        yield from [whole] if whole.tokens <= target else cutter.pieces(section.heading, whole)
    for number, block in enumerate(section.blocks):
        whole = cutter.whole(block)
        # Rather than leave a heading alone, text behind it is cut between sentences, a list between items.
        is_parted = (
            number == 0 and heading_tokens + whole.tokens > target and whole.block_type not in ("code", "table")
        )
        yield from cutter.pieces(block, whole) if whole.tokens > target or is_parted else [whole]


def _type(pieces: Sequence[Piece]) -> str:
    types = {piece.block_type for piece in pieces}
    if len(types) > 1:
        types.discard("heading")
    block_type = types.pop()
    return block_type if not types and block_type in _TYPES else "text"
