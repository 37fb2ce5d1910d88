"""Chunks: changed documents are re-chunked, and only the chunks whose text changed are new.

By the hash of what would be embedded, chunks that are still in the document keep their rows and vectors; new ones are
added beside them; the others are superseded, and deleted when the new version goes live.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from rag_pipeline.errors import RagError, one_line
from rag_pipeline.stores.postgres import document_chunks, documents
from rag_pipeline.stores.postgres.document_chunks import ChunkRow, StoredChunk
from rag_pipeline.stores.postgres.documents import ChunkedDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.documents import DocumentText

_BATCH = 64
_BATCH_CHARS = 4_000_000
_FULLTEXT_BYTES = 500_000
"""PostgreSQL rejects a full-text vector over 1 MB; a word takes its bytes and some more for its position."""


@dataclass
class ChunksResult:
    """What a month's chunks step did."""

    documents: int = 0
    added: int = 0
    superseded: int = 0
    kept: int = 0

    def counts(self) -> Counts:
        """The fields of `IngestStats` that this step counts."""
        return {"chunks": self.added, "superseded": self.superseded}


def chunk_documents(pipeline: Pipeline, month: Month) -> ChunksResult:
    """Cut a month's new and changed documents into chunks."""
    result = ChunksResult()
    with pipeline.stopwatch.stage("chunks"):
        while True:
            with pipeline.stores.database.connection() as connection:
                batch = documents.to_chunk(connection, month, _BATCH, _BATCH_CHARS)
                stored = document_chunks.of_documents(connection, month, [(d.id, d.created_at) for d in batch])
            if not batch:
                return result
            rows, chunked = _chunk(pipeline, batch, stored)
            added, superseded = _store(pipeline, month, batch, rows, chunked)
            result.documents += len(batch)
            result.added += added
            result.superseded += superseded
            result.kept += sum(not row.is_new for row in rows)
            pipeline.progress(f"{month} chunks", result.documents)


def _chunk(
    pipeline: Pipeline, batch: Sequence[DocumentText], stored: dict[UUID, list[StoredChunk]]
) -> tuple[list[ChunkRow], list[ChunkedDocument]]:
    """Return the rows of the documents' next versions, and each document's counts and words."""
    from rag_pipeline.documents.chunking.chunker import CHUNKER_VERSION, chunk_document
    from rag_pipeline.language.words import words

    chunker = f"{CHUNKER_VERSION}/{pipeline.settings.chunk_tokens}"
    rows: list[ChunkRow] = []
    chunked: list[ChunkedDocument] = []
    for document in batch:
        old = stored[document.id]
        # Cuts are kept where they still fit; those of another size or chunker do not.
        comparable = old if document.chunked_with == chunker else []
        drafts = chunk_document(
            document.content,
            count_tokens=pipeline.embedder.count_tokens,
            target_tokens=pipeline.settings.chunk_tokens,
            title=document.title,
            previous=[chunk.embedding_text or chunk.content for chunk in comparable if not chunk.superseded],
        )
        # as the vectors see it, with the line that names the document and the headings above
        texts = [" ".join(words(draft.embedding_text)) for draft in drafts]
        rows += next_version(document, drafts, texts, old)
        chunked.append(
            ChunkedDocument(
                id=document.id,
                created_at=document.created_at,
                words=_distinct(" ".join([*words(document.title), *texts])),
                word_count=sum(len(text.split()) for text in texts),
                chunk_count=len(drafts),
                chunked_with=chunker,
            )
        )
    return rows, chunked


def _store(
    pipeline: Pipeline,
    month: Month,
    batch: Sequence[DocumentText],
    rows: Sequence[ChunkRow],
    chunked: Sequence[ChunkedDocument],
) -> tuple[int, int]:
    """Store the next versions. Return the numbers of chunks that were added and superseded."""
    try:
        with pipeline.stores.database.connection() as connection:
            counts = document_chunks.store_next_version(
                connection, month, [(d.id, d.created_at) for d in batch], rows
            )
            documents.mark_chunked(connection, chunked)
    except RagError as error:
        raise type(error)(f"chunks of {batch[0].source} and {len(batch) - 1} more: {one_line(error)}") from error
    return counts


def next_version(
    document: DocumentText, drafts: Sequence[ChunkDraft], texts: Sequence[str], old: Sequence[StoredChunk]
) -> list[ChunkRow]:
    """Return the rows of a document's next version: old chunks with the same content stay, in order; others are new.

    Where several old chunks have the same content, live ones are taken first, in the order of their positions. `texts`
    are the drafts' words, separated by spaces.
    """
    available: dict[tuple[str, str], list[StoredChunk]] = defaultdict(list)
    for chunk in sorted(old, key=lambda chunk: (chunk.live, -chunk.position)):
        available[chunk.content_hash, chunk.content].append(chunk)
    ids: list[UUID] = []
    rows: list[ChunkRow] = []
    for draft, text in zip(drafts, texts, strict=True):
        same = available[draft.content_hash, draft.content]
        kept = same.pop() if same else None
        ids.append(kept.id if kept else uuid4())
        row = ChunkRow(
            id=ids[-1],
            document_id=document.id,
            document_created_at=document.created_at,
            is_new=kept is None,
            position=draft.position,
            section_title=draft.section_title,
            hierarchy_level=draft.hierarchy_level,
            parent_chunk_id=None if draft.parent is None else ids[draft.parent],
        )
        if kept is None:
            row = replace(
                row,
                content=draft.content,
                chunk_type=draft.chunk_type,
                token_count=draft.token_count,
                char_count=draft.char_count,
                content_hash=draft.content_hash,
                embedding_text=None if draft.embedding_text == draft.content else draft.embedding_text,
                words=text,
            )
        rows.append(row)
    return rows


def _distinct(words: str) -> str:
    """Return each word once, in order, up to what a full-text vector can hold."""
    kept: list[str] = []
    size = 0
    for word in dict.fromkeys(words.split()):
        size += len(word.encode()) + 8
        if size > _FULLTEXT_BYTES:
            break
        kept.append(word)
    return " ".join(kept)
