"""What an embedding server answers: vectors, or the reason why there are none.

Dense vectors come in OpenAI's format, https://platform.openai.com/docs/api-reference/embeddings: `data` is a list of
objects with `index` and `embedding`, which is a list of numbers or, with `encoding_format` `base64`, float32 in little
endian. Sparse ones come as TEI and vLLM send them, see `sparse_endpoints.py`. Errors come in several shapes: `{"error": {"message": …}}` (OpenAI, vLLM, Ollama, LiteLLM), `{"error": …}` (TEI),
`{"message": …}`, `{"detail": …}` (FastAPI's, as in Infinity).
"""

from __future__ import annotations

import binascii
import json
import math
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

from rag_pipeline.embedding.base import FloatArray, SparseVector


class WrongAnswerError(Exception):
    """What a server answered is not what it was asked for. The text says what is wrong with it."""

    def __init__(self, what: str, *, says_what_to_do: bool = False) -> None:
        super().__init__(what)
        self.says_what_to_do = says_what_to_do


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    vectors: FloatArray
    """(n, d), in the order of the texts, as the server computed them: of any length, perhaps not finite."""
    tokens: int
    """What the server says that the request has cost; 0 if it says nothing."""


def read_answer(body: bytes, texts: int) -> Answer:
    """Return the answer to a request with so many texts.

    Raises `WrongAnswerError` if it is no JSON, has another number of vectors or an index twice, or if its vectors are
    none or differ in length. A number that is not finite is no reason: it may be due to one text.
    """
    entries, tokens = _entries(body, texts)
    vectors = [_vector(entry.get("embedding")) for entry in entries]
    dimensions = sorted({len(vector) for vector in vectors})
    if len(dimensions) != 1 or dimensions == [0]:
        raise WrongAnswerError(f"vectors of {' and '.join(map(str, dimensions))} dimensions in one answer")
    return Answer(np.stack(vectors), tokens)


@dataclass(frozen=True)
class SparseAnswer:
    """The answer to one request for sparse vectors."""

    vectors: list[SparseVector]
    """In the order of the texts; weights as the server computed them, perhaps not finite or below 0."""
    tokens: int = 0


def read_sparse(body: bytes, texts: int) -> SparseAnswer:
    """Return the answer to a request with so many texts: for each a list of `{"index": …, "value": …}`.

    Raises `WrongAnswerError` if it is no JSON, has another number of vectors, or anything else in them.
    """
    answer = _json(body)
    if not isinstance(answer, list):
        raise WrongAnswerError("an answer without sparse vectors")
    _same_number(answer, texts)
    return SparseAnswer([_sparse_vector(entries) for entries in answer])


@dataclass(frozen=True)
class TokenWeights:
    """The answer to one request for the weights of tokens."""

    weights: list[FloatArray]
    """Of each text (n,), in the order of its tokens."""
    tokens: int


def read_token_weights(body: bytes, texts: int) -> TokenWeights:
    """Return the answer to a request with so many texts: `data` as in OpenAI's format, each with a number per token.

    Raises `WrongAnswerError` as `read_answer` does.
    """
    entries, tokens = _entries(body, texts)
    return TokenWeights([_token_weights(entry.get("data")) for entry in entries], tokens)


def read_token_ids(body: bytes) -> list[int]:
    """Return the ids of a text's tokens: `tokens`. Raises `WrongAnswerError` if there are none."""
    answer = _json(body)
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise WrongAnswerError("an answer without tokens")
    return ids


def reason(body: bytes) -> str:
    """Return why a server refuses a request, in its own words; they can quote anything, and can be empty."""
    try:
        said: Any = _json(body)
    except WrongAnswerError:
        return "" if body.lstrip().startswith(b"<") else body.decode("utf-8", "replace")
    for _ in range(2):
        if isinstance(said, dict):
            said = next((said[key] for key in ("error", "message", "detail") if said.get(key)), "")
    return said if isinstance(said, str) else json.dumps(said)


def error_code(body: bytes) -> str:
    """Return the `code` of an error, such as `insufficient_quota`; empty if it has none."""
    try:
        said = _json(body)
    except WrongAnswerError:
        return ""
    error = said.get("error") if isinstance(said, dict) else None
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a header `Retry-After` asks to wait: a number, or an HTTP date (RFC 9110, 10.2.3).

    None if there is none, or it makes no sense.
    """
    if value is None:
        return None
    try:
        return float(value) if 0 <= float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise WrongAnswerError("an answer that is no JSON") from None


def _entries(body: bytes, texts: int) -> tuple[list[dict[str, Any]], int]:
    """Return what an answer in OpenAI's format has for each text, in their order, and the tokens that it has cost."""
    answer = _json(body)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise WrongAnswerError("an answer without vectors")
    _same_number(data, texts)
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(data):
        index = entry.get("index", position) if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < texts or index in found:
            raise WrongAnswerError(f"vectors whose indexes are not 0 to {texts - 1}")
        found[index] = entry
    return [found[index] for index in range(texts)], _tokens(answer.get("usage"))


def _same_number(vectors: list[Any], texts: int) -> None:
    if len(vectors) != texts:
        raise WrongAnswerError(f"{len(vectors)} vectors for {texts} texts")


def _sparse_vector(entries: Any) -> SparseVector:
    vector: SparseVector = {}
    for entry in entries if isinstance(entries, list) else [None]:
        index, value = (entry.get("index"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if value is None and type(index) is int:
            value = math.nan  # Some write it as null. It is about one text, and found later.
        if type(index) is not int or index in vector or not isinstance(value, int | float) or value is True:
            raise WrongAnswerError("a sparse vector that is no list of indexes, each once, and values")
        try:
            vector[index] = float(value)
        except OverflowError:  # an integer with hundreds of digits
            vector[index] = math.inf
    return vector


def _token_weights(data: Any) -> FloatArray:
    """Return a number per token; each may be in a list of its own."""
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is found later
            weights = np.asarray(data, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise WrongAnswerError("weights that are no list of a number per token") from None
    if weights.ndim == 2 and weights.shape[1] == 1:
        weights = weights[:, 0]
    if weights.ndim != 1:
        raise WrongAnswerError("weights that are no list of a number per token")
    return weights


def _vector(embedding: Any) -> FloatArray:
    try:
        if isinstance(embedding, str):
            return np.frombuffer(b64decode(embedding, validate=True), "<f4").astype(np.float32)
        with np.errstate(over="ignore"):  # becomes infinite, which is found later
            vector = np.asarray(embedding, np.float32)
    except (TypeError, ValueError, OverflowError, binascii.Error):
        raise WrongAnswerError("a vector that is neither a list of numbers nor base64") from None
    if vector.ndim != 1:
        raise WrongAnswerError("a vector that is neither a list of numbers nor base64")
    return vector


def _tokens(usage: Any) -> int:
    counts = [usage.get(name) for name in ("total_tokens", "prompt_tokens")] if isinstance(usage, dict) else []
    return next((count for count in counts if type(count) is int and count > 0), 0)
