"""Ids of vectors: what is composed can be parsed, and nothing else can."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.settings import VECTOR_KINDS, VectorKind
from rag_pipeline.stores.vector_ids import chunk_of, leading_chunk, mapped_id, parse, row_ids

CHUNK = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")


@given(st.uuids(), st.sampled_from(VECTOR_KINDS), st.integers(0, 20))
def test_a_row_id_parses_into_its_parts(chunk: UUID, kind: VectorKind, count: int) -> None:
    ids = row_ids(kind, chunk, count)
    assert [parse(row_id) for row_id in ids] == (
        [(chunk, kind, number) for number in range(count)] if kind == "multi" else [(chunk, kind, None)]
    )
    assert {chunk_of(row_id) for row_id in ids} <= {chunk}


@given(st.uuids(), st.sampled_from(VECTOR_KINDS))
def test_ids_sort_as_their_chunks_do(chunk: UUID, kind: VectorKind) -> None:
    assert all(row_id.startswith(str(chunk)) for row_id in [*row_ids(kind, chunk, 3), mapped_id(kind, chunk)])


@pytest.mark.parametrize(
    "row_id",
    [
        "",
        str(CHUNK),
        f"{CHUNK}_",
        f"{CHUNK}_multi",
        f"{CHUNK}_multi_",
        f"{CHUNK}_multi_01",
        f"{CHUNK}_multi_-1",
        f"{CHUNK}_multi_1234567890",
        f"{CHUNK}_dense_0",
        f"{CHUNK}_other",
        f"{CHUNK}_dense\n",
        f" {CHUNK}_dense",
        str(CHUNK).upper() + "_dense",
        CHUNK.hex + "_dense",
    ],
)
def test_an_id_of_another_form_does_not_parse(row_id: str) -> None:
    assert parse(row_id) is None
    with pytest.raises(ValueError, match="not the id of a vector"):
        chunk_of(row_id)


def test_a_foreign_id_can_begin_with_a_chunk_id() -> None:
    assert leading_chunk(f"{CHUNK}_other") == CHUNK
    assert leading_chunk("zzz") is None
