"""BGE-M3 through FlagEmbedding: dense, sparse and ColBERT vectors from one forward pass.

Chen et al., "BGE M3-Embedding" (2024), https://arxiv.org/abs/2402.03216. FlagEmbedding loads the model and
computes its three heads. Its `encode` is not used: it runs the first batch twice, hides any `RuntimeError` as if
memory had run out, fails on an empty list, prints progress bars, and returns ColBERT vectors as views that keep
the padded batch alive. `_encode_batch` returns the same numbers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency, FloatArray, SparseVector
from rag_pipeline.embedding.bge_m3_folder import digest, find_model, hidden_size
from rag_pipeline.errors import ConfigError, one_line
from rag_pipeline.language.words import comparable

logger = logging.getLogger(__name__)

MAX_TOKENS = 8192
"""Limit of the model, including the two tokens it adds. A longer text is truncated."""

_BATCH_TOKENS = 8192
"""Tokens of a forward pass, including padding."""

_NOT_INSTALLED = "RAG_EMBEDDER=bge-m3 needs the extra bge-m3: pip install 'rag-pipeline[bge-m3]'"


class BgeM3Embedder:
    """A BGE-M3 model, given as a folder or as a name on the Hugging Face Hub, as an `Embedder`.

    The constructor finds the folder (a named model is downloaded the first time) and reads its configuration. The
    model is loaded with the first text: on a GPU in fp16 if available, else on the CPU in fp32. The rows of
    `multi` are the tokens of the text and the end token, at positions 0, 1, 2, …

    Raises `ConfigError` if the extra is not installed or the folder is not a BGE-M3 model.
    """

    def __init__(self, model: str) -> None:
        if find_spec("FlagEmbedding") is None or find_spec("torch") is None:
            raise ConfigError(_NOT_INSTALLED)
        self._folder = find_model(model)
        self.dimension = self.multi_dimension = hidden_size(self._folder)
        self.fingerprint = f"bge-m3-{self.dimension}-{digest(self._folder)}"
        # One call at a time: the tokenizer fails with "Already borrowed" otherwise, and the model takes one batch.
        self._running = threading.Lock()

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Return the vectors of each text, in order. A text without words has an empty `sparse`."""
        if not texts:
            return []
        with self._running:
            token_ids = self._token_ids(texts)
            found: dict[int, ChunkVectors] = {}
            for batch in _batches([len(ids) for ids in token_ids]):
                vectors = self._encode_batch([token_ids[index] for index in batch], kinds)
                found |= zip(batch, vectors, strict=True)
        return [found[index] for index in range(len(texts))]

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the vectors of a query, which are those of a text: the model weights words without statistics."""
        return self.encode([text], kinds)[0]

    def encode_queries(
        self,
        texts: Sequence[str],
        kinds: Sequence[str],
        document_frequencies: Sequence[DocumentFrequency | None],
    ) -> list[ChunkVectors]:
        """Return the vectors of queries. One call takes little longer for several of them, above all on a GPU."""
        return self.encode(texts, kinds)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, without the two that the model adds."""
        with self._running:
            return len(self._model.tokenizer(comparable(text), add_special_tokens=False)["input_ids"])

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        plain = [comparable(text) for text in texts]
        encoding = self._model.tokenizer(plain, truncation=True, max_length=MAX_TOKENS)
        token_ids: list[list[int]] = encoding["input_ids"]
        full = sum(len(ids) == MAX_TOKENS for ids in token_ids)
        if full:
            logger.warning(
                "bge-m3: %d texts reach the limit of %d tokens and are truncated: lower RAG_CHUNK_TOKENS",
                full,
                MAX_TOKENS,
            )
        return token_ids

    def _encode_batch(self, token_ids: list[list[int]], kinds: Sequence[str]) -> list[ChunkVectors]:
        """Run one forward pass, or two on halves of the batch if it does not fit into the device's memory."""
        import torch

        try:
            return self._forward(token_ids, kinds)
        except torch.OutOfMemoryError:
            if len(token_ids) == 1:
                raise
        # Outside the handler, because the exception keeps the tensors of the failed pass alive.
        torch.cuda.empty_cache()
        half = len(token_ids) // 2
        return self._encode_batch(token_ids[:half], kinds) + self._encode_batch(token_ids[half:], kinds)

    def _forward(self, token_ids: list[list[int]], kinds: Sequence[str]) -> list[ChunkVectors]:
        import torch

        model = self._model
        lengths = [len(ids) for ids in token_ids]
        input_ids = np.full((len(token_ids), max(lengths)), model.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(token_ids):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        inputs = {
            "input_ids": torch.from_numpy(input_ids).to(model.target_devices[0]),
            "attention_mask": torch.from_numpy(mask).to(model.target_devices[0]),
        }
        with torch.inference_mode():
            output = model.model(
                inputs,
                return_dense="dense" in kinds,
                return_sparse="sparse" in kinds,
                return_colbert_vecs="multi" in kinds,
            )
        dense, weights, multi = (
            output[name].float().cpu().numpy() if name in output else None
            for name in ("dense_vecs", "sparse_vecs", "colbert_vecs")
        )
        return [
            ChunkVectors(
                dense=None if dense is None else dense[row].copy(),
                sparse=None if weights is None else self._lexical_weights(ids, weights[row, : len(ids), 0]),
                # No row for the start token. A copy, because a view would keep the whole padded batch alive.
                multi=None if multi is None else multi[row, : len(ids) - 1].copy(),
                multi_positions=None if multi is None else list(range(len(ids) - 1)),
                token_count=len(ids) - 2,
            )
            for row, ids in enumerate(token_ids)
        ]

    def _lexical_weights(self, token_ids: list[int], weights: FloatArray) -> SparseVector:
        """Return the largest weight of each token id, without special tokens."""
        ids = np.asarray(token_ids)
        kept = (weights > 0) & ~np.isin(ids, self._special_tokens)
        terms, places = np.unique(ids[kept], return_inverse=True)
        largest = np.zeros(len(terms), dtype=np.float32)
        np.maximum.at(largest, places, weights[kept])
        return dict(zip(terms.tolist(), largest.tolist(), strict=True))

    @cached_property
    def _special_tokens(self) -> NDArray[np.int64]:
        tokenizer = self._model.tokenizer
        return np.array(
            [tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
        )

    @cached_property
    def _model(self) -> Any:
        try:
            import torch
            from FlagEmbedding import BGEM3FlagModel
        except ImportError as error:  # partly installed, or incompatible versions
            raise ConfigError(f"{_NOT_INSTALLED} ({one_line(error)})") from error

        gpu = torch.cuda.is_available()
        try:
            model = BGEM3FlagModel(str(self._folder), use_fp16=gpu, devices="cuda:0" if gpu else "cpu")
            # A full or broken GPU fails here.
            model.model.to(model.target_devices[0])
            model.model.eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(f"RAG_BGE_M3_MODEL: {self._folder} cannot be loaded: {one_line(error)}") from error
        return model


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Yield batches of text indexes: of similar length, at most `_BATCH_TOKENS` tokens, a longer text alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the last text is the longest, so all are padded to its length.
        if batch and lengths[index] * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    yield batch
