"""Embedding servers as an `Embedder`: dense vectors from one; sparse ones from another, or BM25 over Sudachi words."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, SparseVector, TextError
from rag_pipeline.embedding.openai.batches import batches
from rag_pipeline.embedding.openai.endpoints import Embeddings
from rag_pipeline.embedding.openai.server import EmbeddingServer, RefusedTextError
from rag_pipeline.embedding.openai.sparse_endpoints import (
    AskedSparse,
    AskSparse,
    sparse_vectors_of,
    wait_for,
)
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.language.words import WORDS_VERSION, comparable, words

if TYPE_CHECKING:
    from rag_pipeline.embedding.e5.tokenizer import Tokenizer
    from rag_pipeline.embedding.openai.answers import Answer, SparseAnswer
    from rag_pipeline.embedding.openai.options import Address, Options

_A = TypeVar("_A", bound="Answer | SparseAnswer")

_log = logging.getLogger(__name__)

_PROBE = "dimension"
_loading = threading.Lock()


class OpenAIEmbedder:
    """A server that has `/v1/embeddings`, and another one for sparse vectors, or SudachiPy. Thread-safe, and usable in
    a forked child.

    The constructor is free. Without RAG_EMBEDDING_DIMENSIONS and without a dimension that was recorded, `dimension` and
    `fingerprint` ask the server once, at first need, with the patience of an ingest; queries ask with theirs. Any string is
    accepted; texts are sent as NFKC, for dense vectors behind their prefix. Dense vectors are made unit length, since
    Milvus compares them by their inner product; they are as deterministic as the server is.
    There are no multi-vectors.

    All methods that need a server raise `StoreUnavailableError` if it is down, slow, throttling or wrong, whatever it
    is given: then no text is to blame.
    """

    def __init__(
        self,
        options: Options,
        folder: Path | None = None,
        *,
        recorded_dimension: int | None = None,
        server_of: Callable[[Address, int, float], EmbeddingServer] = EmbeddingServer,
    ) -> None:
        """`folder` keeps what loading the vocabulary makes; None makes it again each time.

        `recorded_dimension` is that of the index: the server is not asked for it, and has to keep to it.
        """
        self._options = options
        self._folder = folder
        self._servers = [server_of(options.dense, options.concurrency, options.seconds)]
        self._embeddings = Embeddings(options, recorded_dimension)
        self._ask_sparse: AskSparse | None = None
        if options.sparse is not None:
            self._servers.append(server_of(options.sparse.address, options.concurrency, options.seconds))
            self._ask_sparse = sparse_vectors_of(options.sparse, self._servers[-1])
        self._of_thread = _TokensOfThread()

    @property
    def dimension(self) -> int:
        """Dimension of the dense vectors: that of the settings or the index, else that of what the server sends."""
        return self._known_dimension(urgent=False)

    def _known_dimension(self, *, urgent: bool) -> int:
        if self._embeddings.dimension is None:
            try:
                answers = self._servers[0].ask(self._embeddings, [[_PROBE]], urgent=urgent).result()
            except RefusedTextError as error:
                raise StoreUnavailableError(
                    f"{error.server}: {one_line(error)}; RAG_EMBEDDING_DIMENSIONS is not set, and even {_PROBE!r} is refused: set "
                    "RAG_EMBEDDING_MODEL to a model for embeddings"
                ) from None
            self._bill(answers)
        assert self._embeddings.dimension is not None
        return self._embeddings.dimension

    @property
    def multi_dimension(self) -> int:
        """Never used, since multi-vectors are refused with the settings."""
        return self.dimension

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._options, self.dimension)

    @property
    def billed_tokens(self) -> int:
        """Tokens that the servers have reported for what this thread had embedded, so far."""
        return self._of_thread.tokens

    def load(self, *, for_queries: bool) -> None:
        """Load the vocabulary, in which only texts are counted."""
        if not for_queries:
            _tokenizer(self._folder)

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order. A text without words has an empty `sparse`.

        Raises `RefusedTextError` if a server refuses one of the texts, and `RagError` if a vector is zero or not
        finite.
        """
        texts = list(texts)
        counts = [self.count_tokens(text) for text in texts]
        prefix = self._options.passage_prefix
        more = self.count_tokens(prefix) if prefix else 0
        with self._asked(texts, prefix, [count + more for count in counts], kinds, urgent=False) as asked:
            sparse: list[SparseVector] | None = None
            if "sparse" in kinds and self._ask_sparse is None:  # while the server works
                sparse = [bm25.document_vector(words(text)) for text in texts]
            return self._vectors(asked, sparse, counts, kinds)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query. With `document_frequency`, the inner product of BM25's `sparse` is the score.

        Raises `ConfigError` if a server refuses the query, and not a harmless one.
        """
        return self.encode_queries([text], kinds, [document_frequency])[0]

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return the vectors of queries, embedded by one request; `token_count` is 0."""
        prefix = self._options.query_prefix
        # Not counted, because a search would wait for the vocabulary: no text has more tokens than characters.
        sizes = [len(prefix) + len(text) for text in texts]
        try:
            with self._asked(texts, prefix, sizes, kinds, urgent=True) as asked:
                sparse: list[SparseVector] | None = None
                if "sparse" in kinds and self._ask_sparse is None:
                    sparse = [
                        bm25.query_vector(words(text), frequency)
                        for text, frequency in zip(texts, document_frequencies, strict=True)
                    ]
                found = self._vectors(asked, sparse, [0] * len(texts), kinds)
            self._known_dimension(urgent=True)  # A search needs it next.
            return found
        except RefusedTextError as error:
            _log.warning("a query is refused: %s", one_line(error))
            if len(texts) == 1:  # of several, each is asked again alone
                self._check_servers(kinds)
            raise ConfigError("the embedding server refuses this query: use fewer words") from None
        except TextError as error:
            if len(texts) > 1:
                raise
            raise StoreUnavailableError(
                f"{error.server}: it sent nonsense for a query ({one_line(error)}): restart it, or correct its model"
            ) from None

    def _check_servers(self, kinds: Sequence[str]) -> None:
        """Raise `StoreUnavailableError` if a server refuses a harmless query too."""
        try:
            prefix = self._options.query_prefix
            with self._asked([_PROBE], prefix, [len(prefix) + len(_PROBE)], kinds, urgent=True) as asked:
                asked.wait()
        except RefusedTextError as error:
            raise StoreUnavailableError(
                f"{error.server}: {one_line(error)}; even {_PROBE!r} is refused: correct the model or the server"
            ) from None

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
        for server in self._servers:
            server.close()

    @contextmanager
    def _asked(
        self, texts: Sequence[str], prefix: str, sizes: Sequence[int], kinds: Sequence[str], *, urgent: bool
    ) -> Iterator[_Asked]:
        """Ask the servers for what they have of these kinds; at the end nothing is left of the requests.

        `sizes` are the tokens of each text with its prefix.
        """
        options = self._options
        sent = [comparable(text) for text in texts]
        cut = list(batches(sizes, options.batch_tokens, options.batch_texts))
        with ExitStack() as stack:
            asked = _Asked()
            if "dense" in kinds:
                of_dense = [[prefix + sent[index] for index in batch] for batch in cut]
                asked.dense = self._servers[0].ask(self._embeddings, of_dense, urgent=urgent)
                stack.callback(asked.dense.cancel)
            if "sparse" in kinds and self._ask_sparse is not None:
                asked.sparse = self._ask_sparse([[sent[index] for index in batch] for batch in cut], urgent)
                stack.callback(asked.sparse.cancel)
            yield asked

    def _vectors(
        self, asked: _Asked, of_words: Sequence[SparseVector] | None, counts: Sequence[int], kinds: Sequence[str]
    ) -> list[ChunkVectors]:
        """Return the vectors of so many texts: what servers were asked for, and BM25 if none has sparse ones."""
        asked.wait()
        answers = self._bill(asked.dense.result()) if asked.dense is not None else []
        dense = np.concatenate([answer.vectors for answer in answers]) if answers else None
        sparse = of_words
        if asked.sparse is not None:
            sparse = [vector for answer in self._bill(asked.sparse.result()) for vector in answer.vectors]
        if not counts:
            return []
        found = [
            ChunkVectors(
                dense=None if dense is None else dense[index].copy(),
                sparse=None if sparse is None else sparse[index],
                multi=None,
                token_count=count,
            )
            for index, count in enumerate(counts)
        ]
        return self._validated(found, kinds)

    def _validated(self, found: list[ChunkVectors], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return vectors that can be written. Raises `TextError` if those of a server cannot be."""
        of_servers = {"dense": self._servers[0].name}
        if self._ask_sparse is not None:
            of_servers["sparse"] = self._servers[-1].name
        for kind in kinds:
            try:
                found = validate(found, self.dimension if kind == "dense" else 0, [kind])
            except RagError as error:
                if kind not in of_servers:
                    raise
                raise TextError(str(error), of_servers[kind]) from None
        return found

    def _bill(self, answers: Sequence[_A]) -> Sequence[_A]:
        self._of_thread.tokens += sum(answer.tokens for answer in answers)
        return answers


def fingerprint(options: Options, dimension: int) -> str:
    """Return model, dimension, prefixes, and what the sparse vectors depend on; not the URLs: servers may move.

    The prefix of queries is in it, since cached answers to searches are kept by it.
    """
    prefixes = f"{options.query_prefix}\0{options.passage_prefix}".encode()
    digest = blake2b(prefixes, digest_size=4).hexdigest()
    served = options.sparse
    sparse = f"{served.kind}-{served.model}" if served else f"{WORDS_VERSION}+{bm25.VERSION}"
    return f"openai-{options.model}-{dimension}-{digest}+{sparse}"


@dataclass
class _Asked:
    """What servers were asked for."""

    dense: Future[list[Answer]] | None = None
    sparse: AskedSparse | None = None

    def wait(self) -> None:
        """Wait for all, or until one has failed. Raises what `EmbeddingServer.ask` does."""
        requests: list[Future[Any]] = [self.dense] if self.dense is not None else []
        wait_for([*requests, *(self.sparse.requests if self.sparse is not None else ())])


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
