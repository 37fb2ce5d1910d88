"""From a document's Markdown to its chunks, along its outline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
from rag_pipeline.documents.chunking.pack import Packing, PreviousChunks
from rag_pipeline.documents.chunking.split import Cutter, Piece
from rag_pipeline.documents.cleaning import MAX_SECTION_TITLE, clean_field, clean_text
from rag_pipeline.documents.outline import Section, outline

CHUNKER_VERSION = "2"
"""Raise it whenever `chunk_document` returns something else for the same text: documents are then re-chunked."""

_TYPES = frozenset({"code", "table", "list", "heading"})


def chunk_document(
    markdown: str,
    *,
    count_tokens: Callable[[str], int],
    target_tokens: int = 400,
    previous: Sequence[str] = (),
) -> list[ChunkDraft]:
    """Cut a document into chunks. Returns them in reading order; [] if the document has no text.

    Every chunk lies in one section and is an exact slice of the Markdown, except that each part of a cut code
    block or table repeats the fence or header. A chunk has at most `target_tokens`: the sum of the tokens of its
    blocks, without the section title that precedes its `embedding_text`. Only a single character can exceed this.
    Sentences, code blocks and table rows that fit are never cut.

    `previous` holds the `embedding_text`s of the document's chunks before an edit, in order. Cuts that still fit
    are kept, so that only chunks whose text changed are new. Without it, the result depends on the text alone.

    `count_tokens` is called for blocks, never for single words.
    """
    if target_tokens < 1:
        raise ValueError(f"target_tokens is {target_tokens}: it must be at least 1")
    source = clean_text(markdown)
    cutter = Cutter(source, count_tokens, target_tokens)
    before = PreviousChunks(previous)
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
            chunk_type = _type(pieces[run.first : run.end])
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
    """Return `ChunkDraft.content_hash`: chunks with equal hashes share vectors."""
    return hashlib.sha256(f"{chunk_type}\0{embedding_text}".encode()).hexdigest()


def _pieces(section: Section, cutter: Cutter, target: int) -> Iterator[Piece]:
    heading_tokens = 0
    if section.heading is not None:
        whole = cutter.whole(section.heading)
        heading_tokens = whole.tokens
        yield from [whole] if whole.tokens <= target else cutter.pieces(section.heading, whole)
    for number, block in enumerate(section.blocks):
        whole = cutter.whole(block)
        # Text after a heading is cut between sentences, and a list between items, rather than leave the heading
        # alone.
        is_cut = (
            number == 0 and heading_tokens + whole.tokens > target and whole.block_type not in ("code", "table")
        )
        yield from cutter.pieces(block, whole) if whole.tokens > target or is_cut else [whole]


def _type(pieces: Sequence[Piece]) -> str:
    types = {piece.block_type for piece in pieces}
    if len(types) > 1:
        types.discard("heading")
    block_type = types.pop()
    return block_type if not types and block_type in _TYPES else "text"
