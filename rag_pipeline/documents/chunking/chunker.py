"""From a document's Markdown to its chunks, along its outline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
from rag_pipeline.documents.chunking.groups import Outline, groups
from rag_pipeline.documents.chunking.pack import Packing, PreviousChunks
from rag_pipeline.documents.chunking.split import Cutter
from rag_pipeline.documents.cleaning import MAX_SECTION_TITLE, clean_field, clean_text
from rag_pipeline.documents.outline import outline

CHUNKER_VERSION = "5"
"""Raise it whenever `chunk_document` returns something else for the same text: documents are then re-chunked."""


def chunk_document(
    markdown: str,
    *,
    count_tokens: Callable[[str], int],
    target_tokens: int = 400,
    title: str | None = None,
    previous: Sequence[str] = (),
) -> list[ChunkDraft]:
    """Cut a document into chunks. Returns them in reading order; [] if the document has no text.

    A chunk lies in one section, or holds several small ones whole. It is an exact slice of the Markdown, except that
    each part of a cut code block or table repeats the fence or header. A chunk has at most `target_tokens`: the sum of
    the tokens of its blocks, without the line in front of its `embedding_text` that names the document (its `title`)
    and the headings above the chunk. Only a single character can exceed this. Sentences, code blocks and table rows
    that fit are never cut.

    `previous` holds the `embedding_text`s of the document's chunks before an edit, in order. Cuts that still fit
    are kept, so that only chunks whose text changed are new. Without it, the result depends on the text alone.

    `count_tokens` is called for blocks, never for single words.
    """
    if target_tokens < 1:
        raise ValueError(f"target_tokens is {target_tokens}: it must be at least 1")
    source = clean_text(markdown)
    cutter = Cutter(source, count_tokens, target_tokens)
    before = PreviousChunks(previous)
    sections = Outline(outline(source), clean_field(title, MAX_SECTION_TITLE))
    openers: dict[int, int] = {}  # section → the position of its first chunk
    chunks: list[ChunkDraft] = []
    for group in groups(sections, cutter, target_tokens):
        packing = Packing(source, group, target_tokens)
        for run in packing.runs(before):
            place = group.place(run)
            openers.update((section, len(chunks)) for section in group.opened(run))
            content = packing.content(run)
            embedding_text = packing.embedding_text(run)
            chunk_type = group.chunk_type(run)
            chunks.append(
                ChunkDraft(
                    content=content,
                    chunk_type=chunk_type,
                    position=len(chunks),
                    section_title=place.section_title,
                    hierarchy_level=place.level,
                    parent=None if place.parent is None else openers[place.parent],
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
