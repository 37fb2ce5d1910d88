"""BGE-M3: dense, sparse and ColBERT vectors from one forward pass.

Chen et al., "BGE M3-Embedding" (2024), https://arxiv.org/abs/2402.03216. FlagEmbedding loads the model. Its `encode` is
not used: it runs the first batch twice, hides any `RuntimeError` as if memory had run out, fails on an empty list,
prints progress bars, and returns ColBERT vectors as views that keep the padded batch alive. `encode` here returns the
same numbers, within what the device's precision and the padding of another batch change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray, SparseVector
from rag_pipeline.embedding.batch_plan import plan
from rag_pipeline.embedding.bge_m3_folder import digest, find_model, hidden_size
from rag_pipeline.embedding.bge_m3_model import NOT_INSTALLED, Arithmetic, BgeM3Model, Outputs
from rag_pipeline.embedding.token_pooling import is_punctuation, pool
from rag_pipeline.errors import ConfigError
from rag_pipeline.language.words import comparable

logger = logging.getLogger(__name__)

MAX_TOKENS = 8192
"""Limit of the model, including the two tokens it adds. A longer text is truncated."""

_WINDOW_CHARS = 16_384
"""Texts that are tokenized together, while the model works on those before: some batches."""

_Wait = Callable[[], Outputs]


class BgeM3Embedder:
    """A BGE-M3 model, given as a folder or as a name on the Hugging Face Hub, as an `Embedder`.

    The constructor finds the folder (a named model is downloaded the first time) and reads its configuration. The
    model is loaded with the first text: on a GPU if available, in the quickest `arithmetic` of the device. The rows of
    `multi` are the tokens of the text and the end token, at positions 0, 1, 2, …

    `multi_vectors` is how many rows of `multi` a text has at most. With it, punctuation has no row, and rows that are
    alike are pooled; the position of such a row is that of its first token. Queries keep all their rows.

    A text has the same vectors in any batch up to rounding: with other padding, sums add up in another order. In fp32
    that changes the sixth digit, in halves 1 - cosine by about as much as halves themselves do.

    Raises `ConfigError` if the extra is not installed or the folder is not a BGE-M3 model.
    """

    def __init__(self, model: str, multi_vectors: int | None = None, arithmetic: Arithmetic | None = None) -> None:
        if find_spec("FlagEmbedding") is None or find_spec("torch") is None:
            raise ConfigError(NOT_INSTALLED)
        self._folder = find_model(model)
        self._multi_vectors = multi_vectors
        self._arithmetic = arithmetic
        self.dimension = self.multi_dimension = hidden_size(self._folder)
        self.fingerprint = f"bge-m3-{self.dimension}-{digest(self._folder)}"
        if multi_vectors is not None:
            self.fingerprint += f"-pooled-{multi_vectors}"
        self._loaded: BgeM3Model | None = None
        self._loading = threading.Lock()
        # The model takes one batch at a time; the tokenizer fails with "Already borrowed" if two threads use it.
        self._running = threading.Lock()
        self._tokenizing = threading.Lock()

    def load(self, *, for_queries: bool) -> None:
        """Load the model, which texts and queries share."""
        _ = self._model

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order. A text without words has an empty `sparse`."""
        return self._encode(texts, kinds, self._multi_vectors)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query, which are those of a text: the model weights words without statistics."""
        return self._encode([text], kinds, None)[0]

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return the vectors of queries. One call takes little longer for several of them, above all on a GPU."""
        return self._encode(texts, kinds, None)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, without the two that the model adds."""
        tokenizer = self._model.tokenizer
        with self._tokenizing:
            return len(tokenizer(comparable(text), add_special_tokens=False)["input_ids"])

    def _encode(self, texts: Sequence[str], kinds: Sequence[str], multi_vectors: int | None) -> list[ChunkVectors]:
        found: dict[int, ChunkVectors] = {}
        before: list[tuple[list[int], list[list[int]], _Wait]] = []
        with self._running:
            for indexes, token_ids in self._batches(texts):
                launched = self._launch(indexes, token_ids, kinds)
                # While a GPU works on this batch.
                for batch in before:
                    found |= self._vectors(*batch, multi_vectors)
                before = launched
            for batch in before:
                found |= self._vectors(*batch, multi_vectors)
        return [found[index] for index in range(len(texts))]

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Yield indexes of texts with their token ids; the next ones are tokenized while the model has the last."""
        windows = _windows([len(text) for text in texts])
        if len(windows) <= 1:
            for window in windows:
                yield from self._planned(window, self._token_ids([texts[index] for index in window]))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as ahead:
            tokenized = [ahead.submit(self._token_ids, [texts[index] for index in window]) for window in windows]
            try:
                for window, future in zip(windows, tokenized, strict=True):
                    yield from self._planned(window, future.result())
            finally:
                ahead.shutdown(wait=True, cancel_futures=True)

    def _planned(
        self, window: list[int], token_ids: list[list[int]]
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        model = self._model
        for batch in plan([len(ids) for ids in token_ids], model.batch_tokens, model.pass_tokens):
            yield [window[at] for at in batch], [token_ids[at] for at in batch]

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        plain = [comparable(text) for text in texts]
        tokenizer = self._model.tokenizer
        with self._tokenizing:
            encoding = tokenizer(plain, truncation=True, max_length=MAX_TOKENS, return_attention_mask=False)
        token_ids: list[list[int]] = encoding["input_ids"]
        full = sum(len(ids) == MAX_TOKENS for ids in token_ids)
        if full:
            logger.warning(
                "bge-m3: %d texts reach the limit of %d tokens and are truncated: lower RAG_CHUNK_TOKENS",
                full,
                MAX_TOKENS,
            )
        return token_ids

    def _launch(
        self, indexes: list[int], token_ids: list[list[int]], kinds: Sequence[str]
    ) -> list[tuple[list[int], list[list[int]], _Wait]]:
        """Start a forward pass, or two on halves of the batch if it does not fit into the device's memory."""
        import torch

        try:
            return [(indexes, token_ids, self._model.launch(token_ids, kinds))]
        except torch.OutOfMemoryError:
            if len(token_ids) == 1:
                raise
        # Outside the handler, because the exception keeps the tensors of the failed pass alive.
        torch.cuda.empty_cache()
        half = len(token_ids) // 2
        return [
            *self._launch(indexes[:half], token_ids[:half], kinds),
            *self._launch(indexes[half:], token_ids[half:], kinds),
        ]

    def _vectors(
        self, indexes: list[int], token_ids: list[list[int]], wait: _Wait, multi_vectors: int | None
    ) -> dict[int, ChunkVectors]:
        """Return the vectors of a batch that was launched, by the index of the text."""
        outputs = wait()
        lengths = [len(ids) - 1 for ids in token_ids]
        ends = np.cumsum(lengths).tolist()
        ids = np.concatenate([np.asarray(one[1:]) for one in token_ids])
        sparse: Sequence[SparseVector | None] = [None] * len(token_ids)
        if outputs.weights is not None:
            counted = np.where(self._is_special[ids], 0, outputs.weights)
            sparse = lexical_weights(ids, counted, lengths)
        found = {}
        for row, (index, length, end) in enumerate(zip(indexes, lengths, ends, strict=True)):
            multi, positions = None, None
            if outputs.multi is not None:
                of_text = outputs.multi[end - length : end]
                multi, positions = self._rows(of_text, ids[end - length : end], multi_vectors)
            found[index] = ChunkVectors(
                dense=None if outputs.dense is None else outputs.dense[row].copy(),
                sparse=sparse[row],
                multi=multi,
                multi_positions=positions,
                token_count=length - 1,
            )
        return found

    def _rows(self, rows: FloatArray, ids: NDArray[np.int64], most: int | None) -> tuple[FloatArray, list[int]]:
        """Return the rows of `multi` that are kept, with their positions; no views, which would keep the batch."""
        if most is None:
            return rows.copy(), list(range(len(rows)))
        kept = np.flatnonzero(~self._is_punctuation[ids])  # the end token is none
        pooled, first = pool(rows[kept], most)
        return pooled, kept[first].tolist()

    @cached_property
    def _is_special(self) -> NDArray[np.bool_]:
        """Of each token id, whether it is none of the text's."""
        tokenizer = self._model.tokenizer
        found = np.zeros(len(tokenizer), dtype=bool)
        found[[tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]] = (
            True
        )
        return found

    @cached_property
    def _is_punctuation(self) -> NDArray[np.bool_]:
        """Of each token id, whether it is only punctuation or a space (▁)."""
        tokenizer = self._model.tokenizer
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        return np.array([is_punctuation(piece or "") for piece in pieces])

    @property
    def _model(self) -> BgeM3Model:
        with self._loading:
            if self._loaded is None:
                self._loaded = BgeM3Model(self._folder, self._arithmetic)
            return self._loaded


def lexical_weights(ids: NDArray[np.int64], weights: FloatArray, lengths: Sequence[int]) -> list[SparseVector]:
    """Return the largest weight above 0 of each token id, for texts whose tokens are given one after the other."""
    kept = weights > 0
    texts = np.repeat(np.arange(len(lengths)), lengths)[kept]
    keys = texts << 32 | ids[kept]
    order = np.argsort(keys)
    terms, starts = np.unique(keys[order], return_index=True)
    largest = np.maximum.reduceat(weights[kept][order], starts) if len(terms) else weights[:0]
    ends = np.searchsorted(terms, np.arange(len(lengths) + 1) << 32).tolist()
    of_terms, values = (terms & 0xFFFF_FFFF).tolist(), largest.tolist()
    return [dict(zip(of_terms[start:end], values[start:end], strict=True)) for start, end in pairwise(ends)]


def _windows(chars: list[int]) -> list[list[int]]:
    """Return indexes of texts, the shortest first, of about `_WINDOW_CHARS` characters each."""
    windows: list[list[int]] = []
    size = 0
    for index in sorted(range(len(chars)), key=chars.__getitem__):
        if not windows or (size and size + chars[index] > _WINDOW_CHARS):
            windows.append([])
            size = 0
        windows[-1].append(index)
        size += chars[index]
    return windows
