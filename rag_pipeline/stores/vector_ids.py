"""The ids of vectors: composed, parsed, and written in SQL. Nothing else knows their form.

A chunk's vector is `<chunk id>_dense` in `dense_collection` and `<chunk id>_sparse` in `sparse_collection`; its
multi-vectors are one row each, `<chunk id>_multi_<n>`, n from 0. The chunk's row in PostgreSQL holds the first two, and
`<chunk id>_multi` for all its multi-vectors. Ids begin with the chunk's id, so they sort as the chunk ids do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from rag_pipeline.settings import VECTOR_KINDS

if TYPE_CHECKING:
    from rag_pipeline.settings import VectorKind

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ID = re.compile(rf"({_UUID})_(?:(dense)|(sparse)|(multi)_(0|[1-9][0-9]{{0,8}}))")


class VectorId(NamedTuple):
    """The parts of the id of a row in a collection."""

    chunk: UUID
    kind: VectorKind
    number: int | None
    """Which of the chunk's multi-vectors; None in the other collections."""


def row_ids(kind: VectorKind, chunk: UUID, multi_count: int) -> list[str]:
    """Return the ids of a chunk's rows in a collection: one, or one per multi-vector."""
    if kind == "multi":
        return [f"{chunk}_multi_{number}" for number in range(multi_count)]
    return [mapped_id(kind, chunk)]


def mapped_id(kind: VectorKind, chunk: UUID) -> str:
    """Return the id that the chunk's row in PostgreSQL holds for a collection."""
    return f"{chunk}_{kind}"


def mapped_id_sql(kind: VectorKind, chunk_id: str) -> str:
    """Return `mapped_id` as an SQL expression; `chunk_id` is the column of the chunk's id."""
    return f"{chunk_id} || '_{kind}'"


def column(kind: VectorKind) -> str:
    """Return the column of `document_chunks` that holds `mapped_id`."""
    return f"{kind}_vector_id"


def parse(row_id: str) -> VectorId | None:
    """Parse a row's id; None if it has none of the forms above."""
    match = _ID.fullmatch(row_id)
    if match is None:
        return None
    kind = next(kind for kind in VECTOR_KINDS if kind in match.groups())
    return VectorId(UUID(match[1]), kind, int(match[5]) if kind == "multi" else None)


def leading_chunk(row_id: str) -> UUID | None:
    """Return the chunk id that an id begins with, whoever composed the id; None if it begins with no chunk id."""
    try:
        return UUID(row_id[:36])
    except ValueError:
        return None


def chunk_of(row_id: str) -> UUID:
    """Return the chunk that a row belongs to. Raises `ValueError` for an id that this program did not compose."""
    parsed = parse(row_id)
    if parsed is None:
        raise ValueError(f"{row_id!r} is not the id of a vector: expected <chunk id>_dense, _sparse or _multi_<n>")
    return parsed.chunk
