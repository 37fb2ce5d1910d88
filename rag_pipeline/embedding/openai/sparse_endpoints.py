"""Sparse vectors from a server, which no API has in common: TEI's `/embed_sparse`, and vLLM's `/pooling` for BGE-M3.

TEI: `{"inputs": [text, …]}` → for each text `[{"index": term id, "value": weight}, …]`, of a SPLADE model
(https://huggingface.github.io/text-embeddings-inference, `embed_sparse`).

vLLM, for BGE-M3 (tests/models/language/pooling/test_bge_m3.py in its repository): `/pooling` with the task
`token_classify` has a weight for each token, without the marks of start and end, and `/tokenize` has the tokens of one
text. As in FlagEmbedding, a token's weight is the largest that it has in the text, and the marks have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rag_pipeline.embedding.openai.answers import (
    SparseAnswer,
    TokenWeights,
    read_sparse,
    read_token_ids,
    read_token_weights,
)
from rag_pipeline.embedding.openai.endpoints import NUMBER_BYTES, Endpoint
from rag_pipeline.errors import RagError, StoreUnavailableError

if TYPE_CHECKING:
    from rag_pipeline.embedding.base import FloatArray, SparseVector
    from rag_pipeline.embedding.openai.options import SparseOptions
    from rag_pipeline.embedding.openai.server import EmbeddingServer

_MARKS = range(4)
"""Ids of XLM-RoBERTa's start, padding, end and unknown token."""
_MOST_TERMS = 32_768
"""Of a text: more than BERT's vocabulary, of which SPLADE has some hundred."""
T = TypeVar("T")


class AskedSparse(Protocol):
    """Sparse vectors that a server was asked for."""

    @property
    def requests(self) -> Sequence[Future[Any]]:
        """What is waited for. They raise what `EmbeddingServer.ask` says."""
        ...

    def result(self) -> list[SparseAnswer]:
        """Wait for them. Raises what `EmbeddingServer.ask` does."""
        ...

    def cancel(self) -> object:
        """End the requests."""
        ...


AskSparse = Callable[[Sequence[Sequence[str]], bool], AskedSparse]
"""Batches of texts, and whether somebody waits for them → their vectors."""


def sparse_vectors_of(options: SparseOptions, server: EmbeddingServer) -> AskSparse:
    """Return how sparse vectors are asked for, which depends on the endpoint that the settings name."""
    if options.is_tei:
        endpoint = _EmbedSparse(options)
        return lambda batches, urgent: _AskedVectors(server.ask(endpoint, batches, urgent=urgent))
    return _OfTokens(options, server)


class _SparseEndpoint(Endpoint[T]):
    model_variable = "RAG_EMBEDDING_SPARSE_MODEL"
    called = "the server of the sparse vectors"

    def __init__(self, options: SparseOptions) -> None:
        super().__init__()
        self.url, self.model = options.address.url, options.model


class _EmbedSparse(_SparseEndpoint[SparseAnswer]):
    """TEI's `/embed_sparse`."""

    what_else = "does it serve a model for sparse vectors (SPLADE)?"

    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"inputs": list(texts)}

    def largest_answer(self, texts: Sequence[str]) -> int:
        return len(texts) * _MOST_TERMS * NUMBER_BYTES

    def read(self, content: bytes, texts: int) -> SparseAnswer:
        return read_sparse(content, texts)


class _Pooling(_SparseEndpoint[TokenWeights]):
    """vLLM's `/pooling`: the weight of each token."""

    what_else = 'does it serve BGE-M3 with --hf-overrides \'{"architectures": ["BgeM3EmbeddingModel"]}\'?'

    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"model": self.model, "input": list(texts), "task": "token_classify"}

    def largest_answer(self, texts: Sequence[str]) -> int:
        return _most_tokens(texts) * NUMBER_BYTES

    def read(self, content: bytes, texts: int) -> TokenWeights:
        return read_token_weights(content, texts)


class _Tokenize(_SparseEndpoint[list[int]]):
    """vLLM's `/tokenize`: the tokens of one text."""

    what_else = "is it vLLM?"
    if_not_found = "is it vLLM, and reached under the same address as its /pooling?"
    is_guarded = False  # It goes with /pooling, which is: of two requests the breaker would let one through.

    def __init__(self, options: SparseOptions) -> None:
        super().__init__(options)
        self.url = options.tokenize_url

    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        (text,) = texts
        return {"model": self.model, "prompt": text, "add_special_tokens": False}

    def largest_answer(self, texts: Sequence[str]) -> int:
        return _most_tokens(texts) * NUMBER_BYTES

    def read(self, content: bytes, texts: int) -> list[int]:
        return read_token_ids(content)


class _OfTokens:
    """Asks vLLM for the weights of tokens and for the tokens, at once."""

    def __init__(self, options: SparseOptions, server: EmbeddingServer) -> None:
        self._server = server
        self._pooling, self._tokenize = _Pooling(options), _Tokenize(options)

    def __call__(self, batches: Sequence[Sequence[str]], urgent: bool) -> AskedSparse:
        weights = self._server.ask(self._pooling, batches, urgent=urgent)
        tokens = self._server.ask(self._tokenize, [[text] for batch in batches for text in batch], urgent=urgent)
        return _AskedTokens(self._pooling.url, weights, tokens, urgent=urgent)


class _AskedVectors:
    def __init__(self, vectors: Future[list[SparseAnswer]]) -> None:
        self._vectors = vectors
        self.requests = (vectors,)

    def result(self) -> list[SparseAnswer]:
        return self._vectors.result()

    def cancel(self) -> None:
        self._vectors.cancel()


class _AskedTokens:
    def __init__(
        self, url: str, weights: Future[list[TokenWeights]], tokens: Future[list[list[int]]], *, urgent: bool
    ) -> None:
        self._url = url
        self._urgent = urgent
        self._weights, self._tokens = weights, tokens
        self.requests: tuple[Future[Any], ...] = (weights, tokens)

    def result(self) -> list[SparseAnswer]:
        try:
            wait_for(self.requests)
            answers, tokens = self._weights.result(), iter(self._tokens.result())
        finally:
            self.cancel()
        return [
            SparseAnswer(
                [self._vector(next(tokens), weights) for weights in answer.weights],
                answer.tokens,
            )
            for answer in answers
        ]

    def cancel(self) -> None:
        self._weights.cancel()
        self._tokens.cancel()

    def _vector(self, tokens: Sequence[int], weights: FloatArray) -> SparseVector:
        if len(tokens) != len(weights):
            what = (
                f"RAG_EMBEDDING_SPARSE_URL={self._url}: it sent {len(weights)} weights for {len(tokens)} tokens; are "
                "/pooling and /tokenize those of one vLLM that serves BGE-M3?"
            )
            # Of texts it can be about this one: the run finds out by asking for another.
            raise StoreUnavailableError(what) if self._urgent else RagError(what)
        return _largest(zip(tokens, weights.tolist(), strict=True))


def wait_for(requests: Sequence[Future[Any]]) -> None:
    """Wait until all have ended, or one has failed: then this raises why, however long others are tried again."""
    for done in wait(requests, return_when=FIRST_EXCEPTION).done:
        done.result()


def _most_tokens(texts: Sequence[str]) -> int:
    """The bytes of the texts, of which each can be a token, and what a template of the server puts around them."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + 256 for text in texts)


def _largest(weights: Iterable[tuple[int, float]]) -> SparseVector:
    vector: SparseVector = {}
    for token, weight in weights:
        # What is not finite stays, and is found to be about this text.
        if token not in _MARKS and math.isfinite(vector.get(token, 0.0)):
            vector[token] = max(weight, vector.get(token, 0.0)) if math.isfinite(weight) else weight
    return vector
