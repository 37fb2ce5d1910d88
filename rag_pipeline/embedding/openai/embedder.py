"""An embedding server as an `Embedder`: dense vectors from the server, BM25 over Sudachi words for the sparse ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, SparseVector
from rag_pipeline.embedding.openai.batches import batches
from rag_pipeline.embedding.openai.server import EmbeddingServer, RefusedTextError
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import ConfigError, StoreUnavailableError, one_line
from rag_pipeline.language.words import WORDS_VERSION, comparable, words

if TYPE_CHECKING:
    from rag_pipeline.embedding.e5.tokenizer import Tokenizer
    from rag_pipeline.embedding.openai.answers import Answer
    from rag_pipeline.embedding.openai.options import Options

_log = logging.getLogger(__name__)

_PROBE = "dimension"
_loading = threading.Lock()


class OpenAIEmbedder:
    """A server that has `/v1/embeddings`, and SudachiPy. Thread-safe, and usable in a forked child.

    The constructor is free. Without RAG_EMBEDDING_DIMENSIONS, `dimension` and `fingerprint` ask the server once, at
    first need. Any string is accepted; texts are sent as NFKC, behind their prefix. Dense vectors are made unit
    length, since Milvus compares them by their inner product; they are as deterministic as the server is. There are no
    multi-vectors.

    All methods that need the server raise `StoreUnavailableError` if it is down, slow, throttling or wrong, whatever it
    is given: then no text is to blame.
    """

    def __init__(
        self, options: Options, folder: Path | None = None, *, server: EmbeddingServer | None = None
    ) -> None:
        """`folder` keeps what loading the vocabulary makes; None makes it again each time."""
        self._options = options
        self._folder = folder
        self._server = server or EmbeddingServer(options)
        self._of_thread = _TokensOfThread()

    @property
    def dimension(self) -> int:
        """Dimension of the dense vectors: that of the settings, else that of what the server sends."""
        if self._server.dimension is None:
            try:
                self._received(self._server.embed([[_PROBE]], urgent=True))
            except RefusedTextError as error:
                raise StoreUnavailableError(
                    f"{one_line(error)}; RAG_EMBEDDING_DIMENSIONS is not set, and even {_PROBE!r} is refused: set "
                    "RAG_EMBEDDING_MODEL to a model for embeddings"
                ) from None
        assert self._server.dimension is not None
        return self._server.dimension

    @property
    def multi_dimension(self) -> int:
        """Never used, since multi-vectors are refused with the settings."""
        return self.dimension

    @property
    def fingerprint(self) -> str:
        """Model, dimension, prefixes, and what the sparse vectors depend on; not the URL: the server may move.

        The prefix of queries is in it, since cached answers to searches are kept by it.
        """
        prefixes = f"{self._options.query_prefix}\0{self._options.passage_prefix}".encode()
        digest = blake2b(prefixes, digest_size=4).hexdigest()
        return f"openai-{self._options.model}-{self.dimension}-{digest}+{WORDS_VERSION}+{bm25.VERSION}"

    @property
    def billed_tokens(self) -> int:
        """Tokens that the server has reported for what this thread had embedded, so far."""
        return self._of_thread.tokens

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order. A text without words has an empty `sparse`.

        Raises `RefusedTextError` if the server refuses one of the texts, and `RagError` if a vector is zero or not
        finite.
        """
        texts = list(texts)
        counts = [self.count_tokens(text) for text in texts]
        sent = [self._options.passage_prefix + comparable(text) for text in texts]
        sizes = counts
        if self._options.passage_prefix:
            more = self.count_tokens(self._options.passage_prefix)
            sizes = [count + more for count in counts]
        asked = self._asked(sent, sizes, urgent=False) if "dense" in kinds else None
        sparse: list[SparseVector] | None = None
        try:
            if "sparse" in kinds:  # while the server works
                sparse = [bm25.document_vector(words(text)) for text in texts]
            answers = self._received(asked) if asked is not None else None
        finally:
            if asked is not None:
                asked.cancel()
        return self._valid(_vectors(answers, sparse, counts), kinds)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query. With `document_frequency`, the inner product of `sparse` is the BM25 score.

        Raises `ConfigError` if the server refuses the query.
        """
        return self.encode_queries([text], kinds, [document_frequency])[0]

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return the vectors of queries, embedded by one request; `token_count` is 0."""
        sent = [self._options.query_prefix + comparable(text) for text in texts]
        # Not counted, because a search would wait for the vocabulary: no text has more tokens than characters.
        asked = self._asked(sent, list(map(len, sent)), urgent=True) if "dense" in kinds else None
        sparse: list[SparseVector] | None = None
        try:
            if "sparse" in kinds:
                sparse = [
                    bm25.query_vector(words(text), frequency)
                    for text, frequency in zip(texts, document_frequencies, strict=True)
                ]
            answers = self._received(asked) if asked is not None else None
        except RefusedTextError as error:
            _log.warning("a query is refused: %s", one_line(error))
            raise ConfigError("the embedding server refuses this query: use fewer words") from None
        finally:
            if asked is not None:
                asked.cancel()
        return self._valid(_vectors(answers, sparse, [0] * len(texts)), kinds)

    def count_tokens(self, text: str) -> int:
        """Return an estimate of the tokens of a text: their number in XLM-RoBERTa's vocabulary.

        An estimate, because the API does not say how a model cuts text. Models for many languages often have this
        vocabulary (multilingual-e5, BGE-M3); others need up to about twice as many tokens for Japanese. The vocabulary
        is that of the embedder `local`, read from an installed package; no model is loaded.
        """
        text = comparable(text)
        return len(_tokenizer(self._folder).ids(text)) if text.strip() else 0

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._server.close()

    def _asked(self, sent: Sequence[str], sizes: Sequence[int], *, urgent: bool) -> Future[list[Answer]]:
        options = self._options
        cut = batches(sizes, options.batch_tokens, options.batch_texts)
        return self._server.embed([[sent[index] for index in batch] for batch in cut], urgent=urgent)

    def _received(self, asked: Future[list[Answer]]) -> list[Answer]:
        answers = asked.result()
        self._of_thread.tokens += sum(answer.tokens for answer in answers)
        return answers

    def _valid(self, vectors: list[ChunkVectors], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return them with dense vectors of unit length."""
        if not vectors:
            return []
        return validate(vectors, self.dimension if "dense" in kinds else 0, kinds)


def _tokenizer(folder: Path | None) -> Tokenizer:
    with _loading:
        return _loaded_tokenizer(folder)


@cache
def _loaded_tokenizer(folder: Path | None) -> Tokenizer:
    from rag_pipeline.embedding.e5.model_file import ModelFile
    from rag_pipeline.embedding.e5.tokenizer import Tokenizer

    return Tokenizer(ModelFile(), folder)


class _TokensOfThread(threading.local):
    tokens = 0


def _vectors(
    answers: Sequence[Answer] | None, sparse: Sequence[SparseVector] | None, counts: Sequence[int]
) -> list[ChunkVectors]:
    dense = np.concatenate([answer.vectors for answer in answers]) if answers else None
    return [
        ChunkVectors(
            dense=None if dense is None else dense[index].copy(),
            sparse=None if sparse is None else sparse[index],
            multi=None,
            token_count=count,
        )
        for index, count in enumerate(counts)
    ]
