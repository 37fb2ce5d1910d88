"""Chunks: changed documents are re-chunked, and only the chunks whose text changed are new.

By the hash of what would be embedded, chunks that are still in the document keep their rows and vectors; new ones are
added beside them; the others are superseded, and deleted when the new version goes live.
"""

from __future__ import annotations

from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from rag_pipeline.errors import RagError, one_line
from rag_pipeline.stores.postgres import document_chunks, document_claims, documents, schema
from rag_pipeline.stores.postgres.document_chunks import ChunkRow, StoredChunk
from rag_pipeline.stores.postgres.documents import ChunkedDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rag_pipeline.distributed.fleet import MemberReport
    from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft
    from rag_pipeline.indexing.stats import Counts
    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.database import Connection
    from rag_pipeline.stores.postgres.document_chunks import DocumentKey
    from rag_pipeline.stores.postgres.documents import DocumentText

_BATCH = 64
_BATCH_CHARS = 4_000_000
_ANALYSERS = 2
_STORING = 1
"""Batches that wait while one is stored."""
_FULLTEXT_BYTES = 500_000
"""PostgreSQL rejects a full-text vector over 1 MB; a word takes its bytes and some more for its position."""


@dataclass
class ChunksResult:
    """What a month's chunks step did."""

    documents: int = 0
    added: int = 0
    superseded: int = 0
    kept: int = 0
    workers: list[MemberReport] = field(default_factory=list)
    """What each worker of Ray did; empty if this process cut them."""

    def add(self, batch: ChunksResult) -> None:
        """Add what became of a batch."""
        self.documents += batch.documents
        self.added += batch.added
        self.superseded += batch.superseded
        self.kept += batch.kept

    def counts(self) -> Counts:
        """The fields of `IngestStats` that this step counts."""
        return {"chunks": self.added, "superseded": self.superseded}


def chunk_documents(pipeline: Pipeline, month: Month) -> ChunksResult:
    """Cut a month's new and changed documents into chunks."""
    result = ChunksResult()
    schema.analyze_if_grown(pipeline.stores.database, month)
    if _is_for_workers(pipeline, month):
        _chunk_with_workers(pipeline, month, result)
        return result
    with pipeline.stopwatch.stage("chunks"), _ChunkStep(pipeline, month, result) as step:
        while step.run_through():
            pass
    return result


def _is_for_workers(pipeline: Pipeline, month: Month) -> bool:
    settings = pipeline.settings
    if settings.ray_address is None:
        return False
    with pipeline.stores.database.connection() as connection:
        least = settings.ray_from_documents
        return document_claims.to_chunk_up_to(connection, month, least) >= least


def _chunk_with_workers(pipeline: Pipeline, month: Month, result: ChunksResult) -> None:
    from rag_pipeline.distributed.fleet import fleet

    def is_left() -> bool:
        with pipeline.stores.database.connection() as connection:
            return document_claims.to_chunk_up_to(connection, month, 1) > 0

    with pipeline.stopwatch.stage("chunks"), fleet(pipeline, f"{month} chunks") as workers:
        for member, batch in workers.run(chunk_claimed, (month,), is_left):
            member.done += batch.documents
            result.add(batch)
            pipeline.progress(f"{month} chunks", result.documents)
        result.workers = workers.reports()


def chunk_claimed(pipeline: Pipeline, report: Callable[[ChunksResult], None], month: Month) -> None:
    """What a worker does of a month's chunks step: it locks documents that no other has, and stores their chunks.

    Both in one transaction: of a worker that dies nothing is left, its documents are free at once.
    """
    after = None
    with _Cutter(pipeline, month) as cutter:
        while True:
            with pipeline.stores.database.connection() as connection:
                batch = document_claims.lock_to_chunk(connection, month, _BATCH, _BATCH_CHARS, after)
                if not batch:
                    return
                stored = document_chunks.of_documents(connection, month, _keys(batch))
                done = cutter.store(connection, cutter.cut(batch, stored))
            report(done)
            after = batch[-1].id


@dataclass
class _Cut:
    """A document with its next version's chunks, and their words, which another thread is looking for."""

    document: DocumentText
    old: Sequence[StoredChunk]
    drafts: Sequence[ChunkDraft]
    words: Future[list[str]]
    """The words of the title, and then those of each chunk, separated by spaces."""


class _Cutter:
    """Cuts documents while other threads analyse the words of what is cut: in native code, which lets Python go on.

    Use it in a `with` statement.
    """

    def __init__(self, pipeline: Pipeline, month: Month) -> None:
        self._pipeline = pipeline
        self._month = month
        self._chunker = pipeline.generation.chunker
        self._analysers = ThreadPoolExecutor(_ANALYSERS, thread_name_prefix="words")

    def __enter__(self) -> _Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self._analysers.shutdown(cancel_futures=True)

    def cut(self, batch: Sequence[DocumentText], stored: dict[UUID, list[StoredChunk]]) -> list[_Cut]:
        """Return the next versions of documents, of which these chunks are stored."""
        from rag_pipeline.documents.chunking.chunker import chunk_document

        pipeline = self._pipeline
        cuts: list[_Cut] = []
        for document in batch:
            old = stored[document.id]
            # Cuts are kept where they still fit; those of another size or chunker do not.
            comparable = old if document.chunked_with == self._chunker else []
            drafts = chunk_document(
                document.content,
                count_tokens=pipeline.embedder.count_tokens,
                target_tokens=pipeline.generation.settings.chunk_tokens,
                title=document.title,
                previous=[chunk.embedding_text or chunk.content for chunk in comparable if not chunk.superseded],
            )
            cuts.append(_Cut(document, old, drafts, self._analysers.submit(_words_of, document, drafts)))
        return cuts

    def store(self, connection: Connection, batch: Sequence[_Cut]) -> ChunksResult:
        """Store the next versions. Return what became of the batch."""
        rows: list[ChunkRow] = []
        for cut in batch:
            rows += next_version(cut.document, cut.drafts, cut.words.result()[1:], cut.old)
        chunked = [_chunked(cut, self._chunker) for cut in batch]
        keys = _keys([cut.document for cut in batch])
        added, superseded = document_chunks.store_next_version(connection, self._month, keys, rows)
        documents.mark_chunked(connection, chunked)
        return ChunksResult(len(batch), added, superseded, sum(not row.is_new for row in rows))


class _ChunkStep:
    """One call of `chunk_documents` without workers.

    This thread cuts a batch of documents, while another one stores the batch before. Use it in a `with` statement.
    """

    def __init__(self, pipeline: Pipeline, month: Month, result: ChunksResult) -> None:
        self._pipeline = pipeline
        self._month = month
        self._result = result
        self._cutter = _Cutter(pipeline, month)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="chunks")
        self._storing: deque[Future[None]] = deque()

    def __enter__(self) -> _ChunkStep:
        return self

    def __exit__(self, *error: object) -> None:
        self._cutter.__exit__(*error)
        self._writer.shutdown(cancel_futures=True)

    def run_through(self) -> bool:
        """Chunk all documents that are pending, in the order of their ids. Return whether there were any."""
        after = None
        while batch := self._read(after):
            while len(self._storing) > _STORING:
                self._storing.popleft().result()
            self._storing.append(self._writer.submit(self._store, self._cutter.cut(*batch)))
            after = batch[0][-1].id
        while self._storing:
            self._storing.popleft().result()
        return after is not None

    def _read(self, after: UUID | None) -> tuple[list[DocumentText], dict[UUID, list[StoredChunk]]] | None:
        with self._pipeline.stores.database.connection() as connection:
            batch = documents.to_chunk(connection, self._month, _BATCH, _BATCH_CHARS, after)
            return (batch, document_chunks.of_documents(connection, self._month, _keys(batch))) if batch else None

    def _store(self, batch: Sequence[_Cut]) -> None:
        try:
            with self._pipeline.stores.database.connection() as connection:
                done = self._cutter.store(connection, batch)
        except RagError as error:
            raise error.saying(
                f"chunks of {batch[0].document.source} and {len(batch) - 1} more: {one_line(error)}"
            ) from error
        self._result.add(done)
        self._pipeline.progress(f"{self._month} chunks", self._result.documents)


def _keys(batch: Sequence[DocumentText]) -> list[DocumentKey]:
    return [(document.id, document.created_at) for document in batch]


def _words_of(document: DocumentText, drafts: Sequence[ChunkDraft]) -> list[str]:
    from rag_pipeline.language.words import words

    # Chunks as the vectors see them, with the line that names the document and the headings above.
    return [" ".join(words(text)) for text in (document.title, *(draft.embedding_text for draft in drafts))]


def _chunked(cut: _Cut, chunker: str) -> ChunkedDocument:
    title, *texts = cut.words.result()
    return ChunkedDocument(
        id=cut.document.id,
        created_at=cut.document.created_at,
        words=_distinct(" ".join([title, *texts])),
        word_count=sum(len(text.split()) for text in texts),
        chunk_count=len(cut.drafts),
        chunked_with=chunker,
    )


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
