"""What custom embedders return, in every shape that `custom` accepts, converted to `ChunkVectors`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_pipeline.embedding.base import ChunkVectors, FloatArray, SparseVector
from rag_pipeline.settings import VECTOR_KINDS


def as_chunk_vectors(
    returned: Any, texts: Sequence[str], kinds: Sequence[str], count_tokens: Callable[[str], int]
) -> list[ChunkVectors]:
    """Convert the result of an embedder to one `ChunkVectors` per text, with the requested kinds.

    `count_tokens` is called if the embedder returned no count. Raises `TypeError` or `ValueError`, with a message
    for the author of the embedder, if `returned` has an unsupported shape or another number of texts.
    """
    if _is_one(returned) and len(texts) == 1:
        returned = [returned]
    if isinstance(returned, Sequence) and returned and all(_is_one(item) for item in returned):
        _same_number(returned, texts, "results")
        return [_of_one(item, text, kinds, count_tokens) for item, text in zip(returned, texts, strict=True)]
    columns = _columns(returned)
    dense, sparse, multi = (columns[kind] if kind in kinds else None for kind in VECTOR_KINDS)
    if dense is not None:
        matrix = _floats(dense)
        # The vector of a single text can lack the batch dimension.
        dense = matrix[None, :] if matrix.ndim == 1 and len(texts) == 1 else matrix
        if dense.ndim != 2:
            raise ValueError(f"dense has {dense.ndim} dimensions instead of 2, (texts, dimension)")
    if isinstance(sparse, Mapping) and len(texts) == 1:
        sparse = [sparse]
    for kind, column in zip(VECTOR_KINDS, (dense, sparse, multi), strict=True):
        if column is not None:
            _same_number(column, texts, f"{kind} vectors")
    return [
        ChunkVectors(
            dense=None if dense is None else dense[index],
            sparse=None if sparse is None else _sparse(sparse[index]),
            multi=None if multi is None else _matrix(multi[index]),
            token_count=count_tokens(text),
        )
        for index, text in enumerate(texts)
    ]


def _is_one(item: Any) -> bool:
    """Return whether this is the result for one text: it has the attributes, and `dense` is one vector or None."""
    if isinstance(item, ChunkVectors):
        return True
    if isinstance(item, Mapping) or not any(hasattr(item, kind) for kind in VECTOR_KINDS):
        return False
    dense = getattr(item, "dense", None)
    return dense is None or np.ndim(dense) == 1


def _of_one(item: Any, text: str, kinds: Sequence[str], count_tokens: Callable[[str], int]) -> ChunkVectors:
    dense, sparse, multi = (getattr(item, kind, None) if kind in kinds else None for kind in VECTOR_KINDS)
    positions = getattr(item, "multi_positions", None)
    return ChunkVectors(
        dense=None if dense is None else _floats(dense),
        sparse=None if sparse is None else _sparse(sparse),
        multi=None if multi is None else _matrix(multi),
        multi_positions=None if multi is None or positions is None else [int(position) for position in positions],
        token_count=int(getattr(item, "token_count", 0)) or count_tokens(text),
    )


def _columns(returned: Any) -> dict[str, Any]:
    """Return the result by kind."""
    if returned is None:
        raise TypeError("encode returned None")
    if isinstance(returned, Mapping):
        if not any(kind in returned for kind in VECTOR_KINDS):
            raise ValueError(f"the dict has none of the keys {', '.join(VECTOR_KINDS)}")
        return {kind: returned.get(kind) for kind in VECTOR_KINDS}
    if any(hasattr(returned, kind) for kind in VECTOR_KINDS):
        return {kind: getattr(returned, kind, None) for kind in VECTOR_KINDS}
    if isinstance(returned, tuple):
        return dict(zip(VECTOR_KINDS, (*returned, None, None, None)[:3], strict=True))
    return {"dense": returned, "sparse": None, "multi": None}


def _same_number(column: Any, texts: Sequence[str], what: str) -> None:
    if len(column) != len(texts):
        raise ValueError(f"{len(column)} {what} for {len(texts)} texts")


def _sparse(vector: Any) -> SparseVector:
    if isinstance(vector, Mapping):
        ids, weights = vector.keys(), vector.values()
    else:
        ids, weights = vector
    return dict(zip(map(int, ids), _floats(list(weights)).tolist(), strict=True))


def _matrix(rows: Any) -> FloatArray:
    matrix = _floats(rows)
    if matrix.ndim != 2:
        raise ValueError(f"a multi vector has {matrix.ndim} dimensions instead of 2, (vectors, dimension)")
    return matrix


def _floats(values: Any) -> FloatArray:
    if hasattr(values, "detach"):  # a PyTorch tensor, possibly on a GPU or of a type that NumPy does not have
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
